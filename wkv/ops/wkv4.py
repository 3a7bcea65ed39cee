"""The recurrence of RWKV-4: a running weighted mean per channel, weights e^key with a decay.

    wkv_t = (sum_{i<t} e^((t-1-i) W + k_i) v_i + e^(u + k_t) v_t) / (the same sums without v)

The two sums are kept divided by e^p with p their largest exponent, so nothing overflows.

Source: RWKV-4 paper (arXiv 2305.13048), section 3 and appendix on numerical stability.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 8
"""Tokens per chunk. The chunked form makes C A numbers a token, so a short one is fastest."""

LOOP_BELOW = 6
"""With fewer tokens than this the loop is faster than the chunked form."""

MINUS_INFINITY = -1e30
"""Exponent of an empty sum: finite, so that no difference of two of them is NaN."""


def wkv4(
    log_decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance the RWKV-4 state over T tokens and read it out at each.

    Args:
        log_decay: (A,) or (B, T, A) float32, W = -exp(time_decay) <= 0. 0 and a key of
            MINUS_INFINITY make a token of padding.
        bonus: (A,) float32, u, added to the key of the current token.
        key, value: (B, T, A) float32.
        state: (B, 3, A) float32: numerator, denominator, largest exponent. Not modified.

    Returns:
        wkv (B, T, A) float32 and the new state (B, 3, A) float32.
    """
    form = wkv4_recurrent if key.shape[1] < LOOP_BELOW else wkv4_chunked
    return form(log_decay, bonus, key, value, state)


def wkv4_recurrent(
    log_decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Do what `wkv4` says token by token; the definition, and the form for decoding."""
    log_decay = log_decay.expand_as(key)
    aa, bb, pp = state.unbind(1)
    outputs = []
    for t in range(key.shape[1]):
        k, v = key[:, t], value[:, t]
        q = torch.maximum(pp, bonus + k)
        e1, e2 = torch.exp(pp - q), torch.exp(bonus + k - q)
        outputs.append((e1 * aa + e2 * v) / (e1 * bb + e2))
        decayed = pp + log_decay[:, t]
        pp = torch.maximum(decayed, k)
        e1, e2 = torch.exp(decayed - pp), torch.exp(k - pp)
        aa, bb = e1 * aa + e2 * v, e1 * bb + e2
    return torch.stack(outputs, dim=1), torch.stack([aa, bb, pp], dim=1)


def wkv4_chunked(
    log_decay: Tensor,
    bonus: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Do what `wkv4` says in chunks of C tokens.

    With c the inclusive and c' the exclusive running sum of log_decay in the chunk, token i
    counts at token t with the exponent

        E[t, i] = c'_t - c_i + k_i  (i < t) ;   E[t, t] = u + k_t

    and the state with s_t = p + c'_t. All are taken relative to their largest, so every
    exponential is at most 1.
    """
    outputs = []
    log_decay = log_decay.expand_as(key)
    for start in range(0, key.shape[1], chunk):
        part = slice(start, start + chunk)
        y, state = _one_chunk(log_decay[:, part], bonus, key[:, part], value[:, part], state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _one_chunk(
    log_decay: Tensor, bonus: Tensor, k: Tensor, v: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """`wkv4_chunked` for a single chunk (B, C, A)."""
    tokens = k.shape[1]
    aa, bb, pp = state[:, 0, None], state[:, 1, None], state[:, 2, None]
    until = log_decay.cumsum(1)
    before = F.pad(until[:, :-1], (0, 0, 1, 0))
    # The difference first: the sums may be large, and a key added to one would be rounded off.
    exponents = before[:, :, None] - until[:, None] + k[:, None]  # (B, C, C, A)
    earlier = torch.ones(tokens, tokens, dtype=torch.bool, device=k.device).tril(-1)
    exponents = exponents.masked_fill(~earlier[None, :, :, None], -torch.inf)
    current = bonus + k
    carried = pp + before
    largest = torch.maximum(torch.maximum(exponents.amax(2), current), carried)
    weights = torch.exp(exponents - largest[:, :, None])
    e1, e2 = torch.exp(carried - largest), torch.exp(current - largest)
    numerator = (weights * v[:, None]).sum(2) + e1 * aa + e2 * v
    denominator = weights.sum(2) + e1 * bb + e2

    last = until[:, -1:]
    absorbed = k + (last - until)
    carried = pp + last
    largest = torch.maximum(absorbed.amax(1, keepdim=True), carried)
    weights = torch.exp(absorbed - largest)
    decayed = torch.exp(carried - largest)
    aa = (weights * v).sum(1, keepdim=True) + decayed * aa
    bb = weights.sum(1, keepdim=True) + decayed * bb
    return numerator / denominator, torch.cat([aa, bb, largest], dim=1)
