"""RWKV-5: every head keeps a matrix of values by keys that fades at a learned rate.

    y_t[m] = sum_n r_t[n] ( S[m,n] + u[n] k_t[n] v_t[m] )        read before the update
    S[m,n] <- w[n] S[m,n] + v_t[m] k_t[n]                        w = exp(-exp(time_decay))

    5.0  one decay w and one bonus u per head, u = exp(time_first), no gate
    5.1  one decay and one bonus per head, u = time_faaaa, gate
    5.2  one decay and one bonus per key channel, u = time_faaaa, gate

H heads of N channels, A = H N the width of the time mix, D of the embedding, F of the channel mix,
V the vocabulary.
Source: Eagle and Finch paper (arXiv 2404.05892), section 4.1, for 5.2; the `rwkv` package for 5.0
and 5.1.
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
        group_norm_eps: eps of ln_x; rwkv.cpp uses 1e-5 for this generation.

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
    before = layer["att_shift"]
    S = layer["wkv"]
    H, N, _ = S.shape
    x_r = mix(x, before, p.vector(att + "time_mix_r"))
    x_k = mix(x, before, p.vector(att + "time_mix_k"))
    x_v = mix(x, before, p.vector(att + "time_mix_v"))
    r = (p.matrix(att + "receptance.weight") @ x_r).reshape(H, N)
    k = (p.matrix(att + "key.weight") @ x_k).reshape(H, N)
    v = (p.matrix(att + "value.weight") @ x_v).reshape(H, N)

    w = np.exp(-np.exp(p.matrix(att + "time_decay")))
    w = np.broadcast_to(w.reshape(H, -1), (H, N))  # (H,), (H, 1) or (H, N) in the file
    u = np.broadcast_to(bonus(p, att).reshape(H, -1), (H, N))

    y = np.zeros((H, N))
    new_S = np.zeros((H, N, N))
    for h in range(H):
        vk = np.outer(v[h], k[h])  # (value, key)
        y[h] = (S[h] + vk * u[h]) @ r[h]
        new_S[h] = S[h] * w[h] + vk

    y = group_norm(y, group_norm_eps).reshape(-1)
    y = y * p.vector(att + "ln_x.weight") + p.vector(att + "ln_x.bias")
    if p.has(att + "gate.weight"):  # 5.1 and 5.2
        x_g = mix(x, before, p.vector(att + "time_mix_g"))
        y = y * silu(p.matrix(att + "gate.weight") @ x_g)

    layer["att_shift"] = x
    layer["wkv"] = new_S
    return p.matrix(att + "output.weight") @ y


def bonus(p, att):
    """Give u, the extra weight of the current token; its name says whether it is a logarithm."""
    if p.has(att + "time_first"):
        return np.exp(p.matrix(att + "time_first"))
    return p.matrix(att + "time_faaaa")


def channel_mix(x, layer, p, ffn):
    """Compute sigmoid(R x_r) * V relu(K x_k)^2 of the normed x (D,); puts the shift into layer."""
    before = layer["ffn_shift"]
    x_r = mix(x, before, p.vector(ffn + "time_mix_r"))
    x_k = mix(x, before, p.vector(ffn + "time_mix_k"))
    r = sigmoid(p.matrix(ffn + "receptance.weight") @ x_r)  # (D,)
    k = np.maximum(p.matrix(ffn + "key.weight") @ x_k, 0) ** 2  # (F,)
    layer["ffn_shift"] = x
    return r * (p.matrix(ffn + "value.weight") @ k)


def mix(x, before, mu):
    """Token shift of generations 4 and 5: mu is the weight of the current token."""
    return x * mu + before * (1 - mu)


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
    H = p.matrix("blocks.0.att.time_decay").shape[0]
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
