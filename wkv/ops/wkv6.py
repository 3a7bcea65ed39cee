"""The recurrence of RWKV-6: a state matrix per head, with a decay per channel and token.

    y[m] = sum_n r[n] (u[n] k[n] v[m] + S[m, n])        (read before the update)
    S    <- S diag(exp(log_decay)) + v k^T

Source: "Eagle and Finch" paper (arXiv 2404.05892), section on Finch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16
"""Tokens per chunk. The decays inside a chunk are formed one by one, C^2 N numbers a head."""

LOOP_BELOW = 6
"""With fewer tokens than this the loop is faster than the chunked form."""


def wkv6(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance the RWKV-6 state over T tokens and read it out at each.

        y[m] = sum_n r[n] (u[n] k[n] v[m] + S[m, n]) ;   S <- S diag(exp(log_decay)) + v k^T

    Args:
        receptance, key, value: (B, T, H, N) float32.
        log_decay: (B, T, H, N) float32 <= 0, natural logarithm per token, -exp(raw decay).
        bonus: (H, N) float32, u.
        state: (B, H, N, N) float32, axes (value, key). Not modified.

    Returns:
        y (B, T, H, N) float32 and the new state (B, H, N, N) float32.
    """
    form = wkv6_recurrent if receptance.shape[1] < LOOP_BELOW else wkv6_chunked
    return form(receptance, log_decay, key, value, bonus, state)


def wkv6_recurrent(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Do what `wkv6` says token by token; the definition, and the form for decoding."""
    decay = log_decay.exp()
    outputs = []
    for t in range(receptance.shape[1]):
        r, k, v = receptance[:, t], key[:, t], value[:, t]
        now = (r * bonus * k).sum(-1, keepdim=True) * v
        outputs.append(now + (state @ r[..., None]).squeeze(-1))
        state = torch.addcmul(state * decay[:, t, :, None, :], v[..., None], k[..., None, :])
    return torch.stack(outputs, dim=1), state


def wkv6_chunked(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Do what `wkv6` says in chunks of C tokens.

    With c the inclusive and c' the exclusive running sum of log_decay in the chunk,

        A[t, i] = sum_n r_t[n] k_i[n] e^(c'_t[n] - c_i[n])  (i < t) ;  A[t, t] = sum_n r u k
        Y  = A V + (r e^c') S^T
        S <- S diag(e^c_last) + V^T (k e^(c_last - c))

    A decay has no lower bound, so the exponents are formed as differences, which are never
    positive, and not as products of e^c' and e^-c, which would overflow.
    """
    batch, tokens, heads, size = receptance.shape
    chunks = -(-tokens // chunk)
    shape = (batch, chunks, chunk, heads, size)

    def split(x: Tensor) -> Tensor:
        # Tokens of zeros at the end change nothing: decay exp(0), nothing written.
        x = F.pad(x, (0, 0, 0, 0, 0, chunks * chunk - tokens))
        return x.reshape(shape).permute(1, 0, 3, 2, 4)  # (chunks, B, H, C, N)

    r, ell, k, v = map(split, (receptance, log_decay, key, value))
    until = ell.cumsum(-2)
    before = until - ell
    last = until[..., -1:, :]
    A = _inside(r, k, until, before)
    A = A + torch.diag_embed((r * bonus[:, None] * k).sum(-1))
    r_of_state = r * torch.exp(before)
    written = v.mT @ (k * torch.exp(last - until))
    kept = torch.exp(last)

    starts = []
    for step in range(chunks):
        starts.append(state)
        state = torch.addcmul(written[step], state, kept[step])
    Y = A @ v + r_of_state @ torch.stack(starts).mT
    y = Y.permute(1, 0, 3, 2, 4).reshape(batch, chunks * chunk, heads, size)
    return y[:, :tokens], state


def _inside(r: Tensor, k: Tensor, until: Tensor, before: Tensor) -> Tensor:
    """A[t, i] = sum_n r_t[n] k_i[n] e^(c'_t[n] - c_i[n]) for i < t, else 0: (..., C, C)."""
    size = r.shape[-2]
    rows = []
    for t in range(size):
        # Row by row: (..., C, N) at a time instead of (..., C, C, N), and only i < t.
        decay = torch.exp(before[..., t : t + 1, :] - until[..., :t, :])
        row = ((k[..., :t, :] * decay) @ r[..., t, :, None]).squeeze(-1)
        rows.append(F.pad(row, (0, size - t)))
    return torch.stack(rows, dim=-2)
