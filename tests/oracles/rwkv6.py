"""RWKV-6: the recurrence of 5.2 with a decay and a token shift that depend on the token.

    w_t = exp(-exp( time_decay + tanh(x_w time_decay_w1) time_decay_w2 ))
    y_t[m] = sum_n r_t[n] ( S[m,n] + u[n] k_t[n] v_t[m] )        read before the update
    S[m,n] <- w_t[n] S[m,n] + v_t[m] k_t[n]

H heads of N channels, A = H N the width of the time mix, D of the embedding, F of the channel mix,
V the vocabulary, M and R the ranks of the token shift and of the decay.
Source: Eagle and Finch paper (arXiv 2404.05892), section 4.2.
"""

import numpy as np

LAYER_NORM_EPS = 1e-5
# training normalizes y / 8 with eps 1e-5, which is y with eps 1e-5 * 8^2
GROUP_NORM_EPS = 64e-5


def forward(tensors, ids, state=None, *, group_norm_eps=GROUP_NORM_EPS):
    """Run the model over ids.

    Args:
        tensors: dict of raw .pth name to array; `time_state` (H, N, N), if there, is the first wkv.
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
        for l, layer in enumerate(state):
            block = f"blocks.{l}."
            normed = layer_norm(x, p, block + "ln1")
            x = x + time_mix(normed, layer, p, block + "att.", group_norm_eps)
            x = x + channel_mix(layer_norm(x, p, block + "ln2"), layer, p, block + "ffn.")
        logits.append(p.matrix("head.weight") @ layer_norm(x, p, "ln_out"))
    return np.stack(logits), state


def time_mix(x, layer, p, att, group_norm_eps):
    """Mix over time; x (D,) is the normed input. Puts the new shift and wkv into layer."""
    S = layer["wkv"]
    H, N, _ = S.shape
    x_w, x_k, x_v, x_r, x_g = token_shift(x, layer["att_shift"], p, att)
    r = (p.matrix(att + "receptance.weight") @ x_r).reshape(H, N)
    k = (p.matrix(att + "key.weight") @ x_k).reshape(H, N)
    v = (p.matrix(att + "value.weight") @ x_v).reshape(H, N)
    g = silu(p.matrix(att + "gate.weight") @ x_g)  # (A,)

    # low-rank factors are stored (in, out): x @ w1, not w1 @ x
    omega = p.vector(att + "time_decay")
    omega = omega + np.tanh(x_w @ p.matrix(att + "time_decay_w1")) @ p.matrix(att + "time_decay_w2")
    w = np.exp(-np.exp(omega)).reshape(H, N)
    u = p.matrix(att + "time_faaaa").reshape(H, N)

    y = np.zeros((H, N))
    new_S = np.zeros((H, N, N))
    for h in range(H):
        vk = np.outer(v[h], k[h])  # (value, key)
        y[h] = (S[h] + vk * u[h]) @ r[h]
        new_S[h] = S[h] * w[h] + vk

    y = group_norm(y, group_norm_eps).reshape(-1)
    y = y * p.vector(att + "ln_x.weight") + p.vector(att + "ln_x.bias")

    layer["att_shift"] = x
    layer["wkv"] = new_S
    return p.matrix(att + "output.weight") @ (y * g)


def token_shift(x, before, p, att):
    """Give the mixes x + (before - x) (maa_c + m_c), where m_c itself depends on x and before."""
    d = before - x
    z = np.tanh((x + d * p.vector(att + "time_maa_x")) @ p.matrix(att + "time_maa_w1"))  # (5 M,)
    z = z.reshape(5, -1)
    w2 = p.matrix(att + "time_maa_w2")  # (5, M, D)
    return [x + d * (p.vector(att + "time_maa_" + c) + z[j] @ w2[j]) for j, c in enumerate("wkvrg")]


def channel_mix(x, layer, p, ffn):
    """Compute sigmoid(R x_r) * V relu(K x_k)^2 of the normed x (D,); puts the shift into layer."""
    d = layer["ffn_shift"] - x
    x_r = x + d * p.vector(ffn + "time_maa_r")
    x_k = x + d * p.vector(ffn + "time_maa_k")
    r = sigmoid(p.matrix(ffn + "receptance.weight") @ x_r)  # (D,)
    k = np.maximum(p.matrix(ffn + "key.weight") @ x_k, 0) ** 2  # (F,)
    layer["ffn_shift"] = x
    return r * (p.matrix(ffn + "value.weight") @ k)


def layer_norm(x, p, name):
    """Normalize over all channels, with population variance."""
    x = (x - x.mean()) / np.sqrt(x.var() + LAYER_NORM_EPS)
    return x * p.vector(name + ".weight") + p.vector(name + ".bias")


def group_norm(y, eps):
    """Normalize each head of y (H, N) on its own, with population variance."""
    return (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + eps)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def empty_state(p):
    D = p.vector("ln_out.weight").size
    A = p.matrix("blocks.0.att.key.weight").shape[0]
    H = p.matrix("blocks.0.att.time_faaaa").shape[0]
    N = A // H
    state = []
    for l in range(p.n_layer):
        wkv = np.zeros((H, N, N))
        if p.has(f"blocks.{l}.att.time_state"):
            # (head, value, key) in the file too
            wkv = p.matrix(f"blocks.{l}.att.time_state").reshape(H, N, N)
        state.append({"att_shift": np.zeros(D), "wkv": wkv, "ffn_shift": np.zeros(D)})
    return state


class Parameters:
    """The checkpoint's tensors as float64, each converted when it is first asked for."""

    def __init__(self, tensors):
        self.tensors = tensors
        self.converted = {}
        blocks = [name for name in tensors if name.startswith("blocks.")]
        self.n_layer = 1 + max(int(name.split(".")[1]) for name in blocks)

    def has(self, name):
        return name in self.tensors

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
