"""The recurrence of RWKV-7: a state matrix per head with a decay and a delta rule.

    S <- S diag(exp(log_decay)) + (S a) b^T + v k^T        (S a uses the state before the decay)
    y  = S r                                               (read after the update)

Source: RWKV-7 paper (arXiv 2503.14456), state update.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 32
"""Tokens per chunk. |log_decay| <= exp(-1/2), so factored exponents stay below 0.31 * 32 = 10."""

LOOP_BELOW = 6
"""Below this number of tokens, the loop is faster than the chunked form."""


def wkv7(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance the RWKV-7 state over T tokens and read it after each token.

        S <- S diag(exp(log_decay)) + (S a) b^T + v k^T ;   y = S r

    Args:
        receptance, key, value: (B, T, H, N) float32.
        log_decay: (B, T, H, N) float32 in [-exp(-1/2), 0], natural logarithm per token.
        a, b: (B, T, H, N) float32; a = -kappa with kappa of unit length, b = kappa * rate,
            rate in [0, 1].
        state: (B, H, N, N) float32, axes (value, key). Not modified.

    Returns:
        y (B, T, H, N) float32 and the new state (B, H, N, N) float32.
    """
    form = wkv7_recurrent if receptance.shape[1] < LOOP_BELOW else wkv7_chunked
    return form(receptance, log_decay, key, value, a, b, state)


def wkv7_recurrent(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv7` token by token: the definition, used for decoding."""
    decay = log_decay.exp()
    outputs = []
    for t in range(receptance.shape[1]):
        # Outer products are broadcasts of a column (value axis) and a row (key axis).
        removed = state @ a[:, t, :, :, None]
        state = state * decay[:, t, :, None, :]
        state = torch.addcmul(state, removed, b[:, t, :, None, :])
        state = torch.addcmul(state, value[:, t, :, :, None], key[:, t, :, None, :])
        outputs.append((state @ receptance[:, t, :, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1), state


def wkv7_chunked(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv7` in chunks of C tokens, with matrix products instead of a loop.

    Within a chunk, with c the inclusive and c' the exclusive running sum of log_decay,

        SA = (I - Aab)^-1 ((a e^c') S^T + Aak V)         row t: S_{t-1} a_t
        Y  = (r e^c) S^T + Arb SA + Ark V
        S <- S diag(e^c_last) + SA^T (b e^(c_last - c)) + V^T (k e^(c_last - c))

    where Axy[t, i] = sum_n x_t[n] y_i[n] e^(c_t[n] - c_i[n]), exclusive c' and i < t for x = a,
    inclusive c and i <= t for x = r. Only the step from one chunk's state to the next is a loop:
    S <- S M + Z, where M and Z are independent of S. All else is computed for all chunks at once.
    """
    batch, tokens, heads, size = receptance.shape
    chunks = -(-tokens // chunk)
    inputs = (receptance, log_decay, key, value, a, b)
    r, ell, k, v, a, b = (_split(x, chunks, chunk) for x in inputs)
    until = ell.cumsum(-2)
    last = until[:, -1:]
    # Exponents are relative to the middle of the chunk, which halves their range.
    middle = until[:, chunk // 2 : chunk // 2 + 1]
    grow = torch.exp(middle - until)
    written = torch.cat([b * grow, k * grow], dim=1)
    read = torch.cat([r * torch.exp(until - middle), a * torch.exp(until - ell - middle)], dim=1)
    A = read @ written.mT  # the four Axy, side by side
    Arb, Ark = A[:, :chunk, :chunk].tril(), A[:, :chunk, chunk:].tril()
    Aab, Aak = A[:, chunk:, :chunk].tril(-1), A[:, chunk:, chunk:].tril(-1)
    from_middle = torch.exp(middle)
    r_of_state, a_of_state = read[:, :chunk] * from_middle, read[:, chunk:] * from_middle

    # SA = SA_of_state S^T + SA_of_value
    SA = _inverse_of_one_minus(Aab) @ torch.cat([a_of_state, Aak @ v], dim=-1)
    SA_of_state, SA_of_value = SA[..., :size], SA[..., size:]
    written = written * torch.exp(last - middle)
    b_rest, k_rest = written[:, :chunk], written[:, chunk:]
    M = SA_of_state.mT @ b_rest + torch.diag_embed(torch.exp(last.squeeze(1)))
    Z = torch.baddbmm(SA_of_value.mT @ b_rest, v.mT, k_rest)

    shape = state.shape
    state = state.reshape(batch * heads, size, size)
    starts = []
    per_chunk = (chunks, batch * heads, size, size)  # Tensor.chunk would fix an exported batch
    for M_of_chunk, Z_of_chunk in zip(M.view(per_chunk), Z.view(per_chunk), strict=True):
        starts.append(state)
        state = torch.baddbmm(Z_of_chunk, state, M_of_chunk)
    Y = torch.baddbmm(Arb @ SA_of_value, Ark, v)
    Y = torch.baddbmm(Y, torch.baddbmm(r_of_state, Arb, SA_of_state), torch.cat(starts).mT)
    Y = Y.view(chunks, batch, heads, chunk, size).permute(1, 0, 3, 2, 4)
    return Y.reshape(batch, chunks * chunk, heads, size)[:, :tokens], state.view(shape)


def _split(x: Tensor, chunks: int, chunk: int) -> Tensor:
    """Reshape (B, T, H, N) to (chunks B H, C, N), padded with zero tokens, which have no effect."""
    batch, tokens, heads, size = x.shape
    if tokens < chunks * chunk:
        x = F.pad(x, (0, 0, 0, 0, 0, chunks * chunk - tokens))
    x = x.reshape(batch, chunks, chunk, heads, size).permute(1, 0, 3, 2, 4)
    return x.reshape(chunks * batch * heads, chunk, size)


def _inverse_of_one_minus(nilpotent: Tensor) -> Tensor:
    """Compute (I - A)^-1 = (I + A)(I + A^2)(I + A^4)... for strictly lower triangular A."""
    size = nilpotent.shape[-1]
    inverse = nilpotent + torch.eye(size, dtype=nilpotent.dtype, device=nilpotent.device)
    power = nilpotent
    reached = 2
    while reached < size:
        power = power @ power
        inverse = torch.baddbmm(inverse, inverse, power)
        reached *= 2
    return inverse
