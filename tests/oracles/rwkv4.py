"""RWKV-4: every channel keeps an exponentially weighted average of its values.

    wkv_t = ( sum_{i<t} e^{(t-1-i) W + k_i} v_i + e^{u + k_t} v_t ) / ( the same sums without v )
    with W = -exp(time_decay), u = time_first

A is the width of the time mix, D of the embedding, F of the channel mix, V the vocabulary.
Source: RWKV paper (arXiv 2305.13048), equations 11-19 and the stable form of its appendix.
"""

import numpy as np

LAYER_NORM_EPS = 1e-5
EMPTY_EXPONENT = -1e30  # finite, so that exp(EMPTY_EXPONENT - q) is 0 and never nan


def forward(tensors, ids, state=None):
    """Run the model over ids.

    Args:
        tensors: dict of raw .pth name to array.
        ids: list of T token ids.
        state: what an earlier call returned, or None for the empty state. Not modified.

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
            x = x + time_mix(layer_norm(x, p, block + "ln1"), layer, p, block + "att.")
            x = x + channel_mix(layer_norm(x, p, block + "ln2"), layer, p, block + "ffn.")
        logits.append(p.matrix("head.weight") @ layer_norm(x, p, "ln_out"))
    return np.stack(logits), state


def time_mix(x, layer, p, att):
    """Mix over time; x (D,) is the normed input. Puts the new shift and wkv into layer."""
    before = layer["att_shift"]
    x_r = mix(x, before, p.vector(att + "time_mix_r"))
    x_k = mix(x, before, p.vector(att + "time_mix_k"))
    x_v = mix(x, before, p.vector(att + "time_mix_v"))
    r = sigmoid(p.matrix(att + "receptance.weight") @ x_r)  # (A,)
    k = p.matrix(att + "key.weight") @ x_k
    v = p.matrix(att + "value.weight") @ x_v
    W = -np.exp(p.vector(att + "time_decay"))
    u = p.vector(att + "time_first")

    # the true sums are aa e^pp and bb e^pp; q is the larger exponent, so that no exp is above 1
    aa, bb, pp = layer["wkv"]
    q = np.maximum(pp, u + k)
    wkv = (np.exp(pp - q) * aa + np.exp(u + k - q) * v) / (np.exp(pp - q) * bb + np.exp(u + k - q))
    q = np.maximum(pp + W, k)
    aa = np.exp(pp + W - q) * aa + np.exp(k - q) * v
    bb = np.exp(pp + W - q) * bb + np.exp(k - q)

    layer["att_shift"] = x
    layer["wkv"] = np.stack([aa, bb, q])
    return p.matrix(att + "output.weight") @ (r * wkv)


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


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def empty_state(p):
    D = p.vector("ln_out.weight").size
    A = p.matrix("blocks.0.att.key.weight").shape[0]
    wkv = np.stack([np.zeros(A), np.zeros(A), np.full(A, EMPTY_EXPONENT)])
    return [
        {"att_shift": np.zeros(D), "wkv": wkv, "ffn_shift": np.zeros(D)} for _ in range(p.n_layer)
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
