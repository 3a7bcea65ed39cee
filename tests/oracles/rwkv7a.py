"""RWKV-7a, "DeepEmbed": RWKV-7 with a channel mix that is scaled by a matrix of the token.

    E = reshape( s_emb[token] + s_emb_x LN(emb[token]), 32 x 32 )
    h = relu(K x_k)^2 * ( ((x s1) E) s2 + s0 )            x without token shift
    out = V h

The time mix and the state are those of generation 7, and are taken from there.
Source: the `rwkv` package 0.8.32 with RWKV_DE_VERSION=1 (there is no paper).
"""

import numpy as np

from .rwkv7 import GROUP_NORM_EPS, Parameters, empty_state, layer_norm, time_mix

EMBED_RANK = 32


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
        e = layer_norm(p.row("emb.weight", token), p, "blocks.0.ln0")
        x = e
        v_first = None
        for l, layer in enumerate(state):
            block = f"blocks.{l}."
            normed = layer_norm(x, p, block + "ln1")
            y, v_first = time_mix(normed, v_first, layer, p, block + "att.", group_norm_eps)
            x = x + y
            E = deep_embedding(token, e, p, block + "ffn.")
            x = x + channel_mix(layer_norm(x, p, block + "ln2"), E, layer, p, block + "ffn.")
        logits.append(p.matrix("head.weight") @ layer_norm(x, p, "ln_out"))
    return np.stack(logits), state


def deep_embedding(token, e, p, ffn):
    """Give the token's (32, 32) matrix of this layer; e (D,) is its embedding after ln0."""
    E = p.row(ffn + "s_emb.weight", token) + p.matrix(ffn + "s_emb_x.weight") @ e
    return E.reshape(EMBED_RANK, EMBED_RANK)


def channel_mix(x, E, layer, p, ffn):
    """Compute V (relu(K x_k)^2 * scale) of the normed x (D,); puts the new shift into layer."""
    d = layer["ffn_shift"] - x
    x_k = x + d * p.vector(ffn + "x_k")
    k = np.maximum(p.matrix(ffn + "key.weight") @ x_k, 0) ** 2  # (F,)
    scale = x @ p.matrix(ffn + "s1") @ E @ p.matrix(ffn + "s2") + p.vector(ffn + "s0")  # (F,)
    layer["ffn_shift"] = x
    return p.matrix(ffn + "value.weight") @ (k * scale)
