"""The truth for the tests: every RWKV generation in plain numpy float64, one token at a time.

Each file states one generation as its formulas, readable beside the paper: no torch, no chunks, no
batch, no speed. Nothing here imports the package under test.

    logits, state = oracle("7")(tensors, ids)              # from the empty state
    logits, state = oracle("7")(tensors, more_ids, state)  # goes on; state stays as it is

`tensors` maps the raw names of a .pth file to numpy arrays of any float dtype. `logits` is (T, V)
float64. `state` has one dict per layer, {"att_shift": (D,), "wkv": ..., "ffn_shift": (D,)}; wkv is
(H, N, N) with axes (head, value, key), and for generation 4 it is (3, A): numerator, denominator,
max exponent.
"""

from . import rwkv4, rwkv5, rwkv6, rwkv7, rwkv7a

FORWARD = {
    "4": rwkv4.forward,
    "5.0": rwkv5.forward,
    "5.1": rwkv5.forward,
    "5.2": rwkv5.forward,
    "6": rwkv6.forward,
    "7": rwkv7.forward,
    "7a": rwkv7a.forward,
}


def oracle(generation):
    """Give the forward function of a generation: "4", "5.0", "5.1", "5.2", "6", "7" or "7a"."""
    return FORWARD[generation]
