"""RWKV-7: the state maps keys to values, and old values are taken out as new ones are put in.

    S_t = S_{t-1} diag(w_t) - (S_{t-1} kappa_t) (kappa_t * a_t)^T + v_t k_t^T
    y_t = S_t r_t                                                         read after the update

H heads of N channels, A = H N the width of the time mix, D of the embedding, F of the channel mix,
V the vocabulary.
Source: RWKV-7 paper (arXiv 2503.14456), section 4; RWKV-LM/RWKV-v7/rwkv_v7_numpy.py.
"""

import numpy as np

LAYER_NORM_EPS = 1e-5
# training normalizes y / 8 with eps 1e-5, which is y with eps 1e-5 * 8^2
GROUP_NORM_EPS = 64e-5
# training has w = exp(-exp(-softplus(-omega) - 1/2)), which is exp(-DECAY_SCALE sigmoid(omega))
DECAY_SCALE = np.exp(-0.5)
SMALLEST_KEY_LENGTH = 1e-12  # the default of torch's normalize


def forward(tensors, ids, state=None, *, group_norm_eps=GROUP_NORM_EPS):
    """Run the model over ids.

    Args:
        tensors: dict of raw .pth name to array.
        ids: list of T token ids.
        state: what an earlier call returned, or None for the empty state. Not modified.
        group_norm_eps: eps of ln_x.

    Returns:
        logits (T, V) after every token, and the new state.
    """
    p = Parameters(tensors)
    state = empty_state(p) if state is None else [dict(layer) for layer in state]
    logits = []
    for token in ids:
        x = layer_norm(p.row("emb.weight", token), p, "blocks.0.ln0")
        v_first = None  # the values of layer 0; made anew for every token, so no part of the state
        for l, layer in enumerate(state):
            block = f"blocks.{l}."
            normed = layer_norm(x, p, block + "ln1")
            y, v_first = time_mix(normed, v_first, layer, p, block + "att.", group_norm_eps)
            x = x + y
            x = x + channel_mix(layer_norm(x, p, block + "ln2"), layer, p, block + "ffn.")
        logits.append(p.matrix("head.weight") @ layer_norm(x, p, "ln_out"))
    return np.stack(logits), state


def time_mix(x, v_first, layer, p, att, group_norm_eps):
    """Mix over time; x (D,) is the normed input, v_first (A,) or None in layer 0.

    Puts the new shift and wkv into layer. Gives the output (D,) and v_first.
    """
    S = layer["wkv"]
    H, N, _ = S.shape
    d = layer["att_shift"] - x
    x_r, x_w, x_k, x_v, x_a, x_g = [x + d * p.vector(att + "x_" + c) for c in "rwkvag"]

    r = p.matrix(att + "receptance.weight") @ x_r  # (A,)
    k = p.matrix(att + "key.weight") @ x_k
    v = p.matrix(att + "value.weight") @ x_v
    # low-rank factors are stored (in, out): x @ w1, not w1 @ x
    omega = p.vector(att + "w0") + np.tanh(x_w @ p.matrix(att + "w1")) @ p.matrix(att + "w2")
    w = np.exp(-DECAY_SCALE * sigmoid(omega))
    a = sigmoid(p.vector(att + "a0") + x_a @ p.matrix(att + "a1") @ p.matrix(att + "a2"))
    g = sigmoid(x_g @ p.matrix(att + "g1")) @ p.matrix(att + "g2")

    # the direction to take out comes from the key before the rate a changes it
    kappa = (k * p.vector(att + "k_k")).reshape(H, N)
    kappa = kappa / np.maximum(np.sqrt((kappa**2).sum(axis=1, keepdims=True)), SMALLEST_KEY_LENGTH)
    k = k * (1 + (a - 1) * p.vector(att + "k_a"))

    if v_first is None:  # layer 0; v0, v1 and v2 of that layer, where there are any, are never used
        v_first = v
    else:
        share = sigmoid(p.vector(att + "v0") + x_v @ p.matrix(att + "v1") @ p.matrix(att + "v2"))
        v = v + (v_first - v) * share

    r, w, k, v, a = [vector.reshape(H, N) for vector in (r, w, k, v, a)]
    r_k = p.matrix(att + "r_k").reshape(H, N)
    y = np.zeros((H, N))
    own = np.zeros((H, N))
    new_S = np.zeros((H, N, N))
    for h in range(H):
        taken = np.outer(S[h] @ kappa[h], kappa[h] * a[h])  # from the state before its decay
        new_S[h] = S[h] * w[h] - taken + np.outer(v[h], k[h])  # (value, key)
        y[h] = new_S[h] @ r[h]
        own[h] = (r[h] * k[h] * r_k[h]).sum() * v[h]

    y = group_norm(y, group_norm_eps).reshape(-1)
    y = y * p.vector(att + "ln_x.weight") + p.vector(att + "ln_x.bias")
    y = y + own.reshape(-1)

    layer["att_shift"] = x
    layer["wkv"] = new_S
    return p.matrix(att + "output.weight") @ (y * g), v_first


def channel_mix(x, layer, p, ffn):
    """Compute V relu(K x_k)^2; x (D,) is the normed input. Puts the new shift into layer."""
    d = layer["ffn_shift"] - x
    x_k = x + d * p.vector(ffn + "x_k")
    k = np.maximum(p.matrix(ffn + "key.weight") @ x_k, 0) ** 2  # (F,)
    layer["ffn_shift"] = x
    return p.matrix(ffn + "value.weight") @ k


def layer_norm(x, p, name):
    """Normalize over all channels, with population variance."""
    x = (x - x.mean()) / np.sqrt(x.var() + LAYER_NORM_EPS)
    return x * p.vector(name + ".weight") + p.vector(name + ".bias")


def group_norm(y, eps):
    """Normalize each head of y (H, N) on its own, with population variance."""
    return (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + eps)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def empty_state(p):
    D = p.vector("ln_out.weight").size
    H, N = p.matrix("blocks.0.att.r_k").shape
    return [
        {"att_shift": np.zeros(D), "wkv": np.zeros((H, N, N)), "ffn_shift": np.zeros(D)}
        for _ in range(p.n_layer)
    ]


class Parameters:
    """The checkpoint's tensors as float64, each converted when it is first asked for."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.converted = {}
        blocks = [name for name in tensors if name.startswith("blocks.")]
        self.n_layer = 1 + max(int(name.split(".")[1]) for name in blocks)

    def matrix(self, name):
        """Give a tensor in its own shape; Linear weights are (out, in)."""
        if name not in self.converted:
            self.converted[name] = np.asarray(self.tensors[name], dtype=np.float64)
        return self.converted[name]

    def vector(self, name):
        """Give a vector, stored as (D,) or with extra size-1 axes."""
        return self.matrix(name).reshape(-1)

    def row(self, name, index):
        """Give one row of a table that is too large to convert as a whole."""
        return np.asarray(self.tensors[name][index], dtype=np.float64)
