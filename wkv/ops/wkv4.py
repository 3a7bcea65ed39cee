"""The recurrence of RWKV-4: a running mean per channel with decaying weights e^key.

    wkv_t = (sum_{i<t} e^((t-1-i) W + k_i) v_i + e^(u + k_t) v_t) / (the same sums without v)

Both sums are stored divided by e^p, where p is their largest exponent, so they cannot overflow.

Source: RWKV-4 paper (arXiv 2305.13048), section 3 and appendix on numerical stability.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32
"""Tokens per chunk: the number of steps of a loop over all T / C chunks at once."""

LOOP_BELOW = 2 * CHUNK
"""Below this number of tokens, the loop is faster than the chunked form."""

MINUS_INFINITY = -1e30
"""Exponent of an empty sum; it is finite, so the difference of two exponents is never NaN."""


Sums = tuple[Tensor, ...]
"""Numerator and denominator divided by e^p, and p; all of the same shape (..., A)."""


def wkv4(
    log_decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance the RWKV-4 state over T tokens and read it at each token.

    Args:
        log_decay: (A,) or (B, T, A) float32, W = -exp(time_decay) <= 0. A padding
            token has log_decay 0 and key MINUS_INFINITY.
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
    """Compute `wkv4` token by token: the definition, used for decoding."""
    log_decay = log_decay.expand_as(key)
    sums = state.unbind(1)
    outputs = []
    for t in range(key.shape[1]):
        outputs.append(_read(sums, bonus + key[:, t], value[:, t]))
        sums = _absorb(sums, log_decay[:, t], key[:, t], value[:, t])
    return torch.stack(outputs, dim=1), torch.stack(sums, dim=1)


def wkv4_chunked(
    log_decay: Tensor,
    bonus: Tensor,
    key: Tensor,
    value: Tensor,
    state: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv4` in chunks of C tokens.

    The recurrence runs in all chunks at once, each from the empty state. Then the decayed sums of
    all previous chunks are added to each chunk. Sums with exponents p and p' are added as

        q = max(p, p') ;  sum = e^(p - q) sum + e^(p' - q) sum'
    """
    batch, tokens, channels = key.shape
    chunks = -(-tokens // chunk)
    rest = chunks * chunk - tokens
    shape = (batch, chunks, chunk, channels)
    # Padding without effect: no decay, and a key of zero weight.
    ell = F.pad(log_decay.expand_as(key), (0, 0, 0, rest)).view(shape)
    k = F.pad(key, (0, 0, 0, rest), value=MINUS_INFINITY).view(shape)
    v = F.pad(value, (0, 0, 0, rest)).view(shape)

    nothing = torch.zeros_like(k[:, :, 0])
    sums: Sums = (nothing, nothing, torch.full_like(nothing, MINUS_INFINITY))
    before_token = []
    for t in range(chunk):
        before_token.append(sums)
        sums = _absorb(sums, ell[:, :, t], k[:, :, t], v[:, :, t])
    inside: Sums = tuple(torch.stack(part, dim=2) for part in zip(*before_token, strict=True))

    until = ell.cumsum(2)
    carried = state.unbind(1)
    before_chunk = []
    for number in range(chunks):
        before_chunk.append(carried)
        own = tuple(part[:, number] for part in sums)
        carried = _add(_decayed(carried, until[:, number, -1]), own)
    outside: Sums = tuple(torch.stack(part, dim=1) for part in zip(*before_chunk, strict=True))

    before = F.pad(until[:, :, :-1], (0, 0, 1, 0))
    outside = tuple(part[:, :, None] for part in outside)
    y = _read(_add(_decayed(outside, before), inside), bonus + k, v)
    return y.reshape(batch, -1, channels)[:, :tokens], torch.stack(carried, dim=1)


def _read(sums: Sums, key: Tensor, value: Tensor) -> Tensor:
    """Return the mean of the sums and one more value with weight e^key."""
    aa, bb, pp = sums
    q = torch.maximum(pp, key)
    e1, e2 = torch.exp(pp - q), torch.exp(key - q)
    return (e1 * aa + e2 * value) / (e1 * bb + e2)


def _absorb(sums: Sums, log_decay: Tensor, key: Tensor, value: Tensor) -> Sums:
    """Decay the sums and add one more value with weight e^key."""
    aa, bb, pp = _decayed(sums, log_decay)
    q = torch.maximum(pp, key)
    e1, e2 = torch.exp(pp - q), torch.exp(key - q)
    return e1 * aa + e2 * value, e1 * bb + e2, q


def _decayed(sums: Sums, log_decay: Tensor) -> Sums:
    aa, bb, pp = sums
    return aa, bb, pp + log_decay


def _add(earlier: Sums, later: Sums) -> Sums:
    """Add two pairs of sums."""
    aa1, bb1, pp1 = earlier
    aa2, bb2, pp2 = later
    q = torch.maximum(pp1, pp2)
    e1, e2 = torch.exp(pp1 - q), torch.exp(pp2 - q)
    return e1 * aa1 + e2 * aa2, e1 * bb1 + e2 * bb2, q
