"""The recurrence of RWKV-5: a state matrix per head with constant decays.

    y[m] = sum_n r[n] (u[n] k[n] v[m] + S[m, n])        (read before the update)
    S    <- S diag(exp(log_decay)) + v k^T

5.0 and 5.1 have one decay and one bonus per head, 5.2 has one per head and channel.

Source: "Eagle and Finch" paper (arXiv 2404.05892), section on Eagle.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16
"""Tokens per chunk. All chunks share their inner decays: C N numbers per head."""

LOOP_BELOW = 6
"""Below this number of tokens, the loop is faster than the chunked form."""


def wkv5(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance the RWKV-5 state over T tokens and read it at each token.

        y[m] = sum_n r[n] (u[n] k[n] v[m] + S[m, n]) ;   S <- S diag(exp(log_decay)) + v k^T

    Args:
        receptance, key, value: (B, T, H, N) float32.
        log_decay: (H, 1) or (H, N) float32 <= 0, -exp(time_decay).
        bonus: (H, 1) or (H, N) float32, u.
        state: (B, H, N, N) float32, axes (value, key). Not modified.

    Returns:
        y (B, T, H, N) float32 and the new state (B, H, N, N) float32.
    """
    form = wkv5_recurrent if receptance.shape[1] < LOOP_BELOW else wkv5_chunked
    return form(receptance, log_decay, key, value, bonus, state)


def wkv5_recurrent(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv5` token by token: the definition, used for decoding."""
    decay = log_decay.exp()[:, None, :]
    outputs = []
    for t in range(receptance.shape[1]):
        r, k, v = receptance[:, t], key[:, t], value[:, t]
        now = (r * bonus * k).sum(-1, keepdim=True) * v
        outputs.append(now + (state @ r[..., None]).squeeze(-1))
        state = torch.addcmul(state * decay, v[..., None], k[..., None, :])
    return torch.stack(outputs, dim=1), state


def wkv5_chunked(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv5` in chunks of C tokens.

    With l = log_decay:

    A[t, i] = sum_n r_t[n] k_i[n] e^((t-1-i) l[n])  (i < t) ;  A[t, t] = sum_n r u k
    Y  = A V + (r e^(t l)) S^T
    S <- S diag(e^(C l)) + V^T (k e^((C-1-i) l))
    """
    tokens = receptance.shape[1]
    whole = tokens - tokens % chunk
    outputs = []
    # Padding would decay the state, so the remaining tokens form a smaller chunk.
    for part, size in ((slice(0, whole), chunk), (slice(whole, tokens), tokens - whole)):
        if part.stop > part.start:
            r, k, v = receptance[:, part], key[:, part], value[:, part]
            y, state = _equal_chunks(r, k, v, log_decay, bonus, state, size)
            outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _equal_chunks(
    receptance: Tensor,
    key: Tensor,
    value: Tensor,
    log_decay: Tensor,
    bonus: Tensor,
    state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv5_chunked` for a multiple of `chunk` tokens."""
    batch, tokens, heads, size = receptance.shape
    shape = (batch, tokens // chunk, chunk, heads, size)
    r, k, v = (x.reshape(shape).permute(1, 0, 3, 2, 4) for x in (receptance, key, value))
    steps = torch.arange(chunk, device=r.device, dtype=r.dtype)[:, None]
    power = torch.exp(steps * log_decay[:, None, :])  # (H, C, N or 1): e^(t l)
    A = _inside(r, k, power) + torch.diag_embed((r * bonus[:, None] * k).sum(-1))
    r_of_state = r * power
    written = v.mT @ (k * power.flip(-2))
    kept = torch.exp(chunk * log_decay)[:, None, :]

    starts = []
    for step in range(len(r)):
        starts.append(state)
        state = torch.addcmul(written[step], state, kept)
    Y = A @ v + r_of_state @ torch.stack(starts).mT
    return Y.permute(1, 0, 3, 2, 4).reshape(batch, tokens, heads, size), state


def _inside(r: Tensor, k: Tensor, power: Tensor) -> Tensor:
    """Compute A[t, i] = sum_n r_t[n] k_i[n] e^((t-1-i) l[n]) for i < t, else 0: (..., C, C)."""
    size = r.shape[-2]
    if power.shape[-1] == 1:  # one decay per head: factor it out of the sum over n
        lag = torch.arange(size, device=r.device)
        lag = lag[:, None] - 1 - lag
        decay = power.squeeze(-1)[:, lag.clamp(min=0)]
        return (r @ k.mT) * torch.where(lag >= 0, decay, 0.0)
    rows = []
    for t in range(size):
        decayed = k[..., :t, :] * power[:, :t].flip(-2)
        row = (decayed @ r[..., t, :, None]).squeeze(-1)
        rows.append(F.pad(row, (0, size - t)))
    return torch.stack(rows, dim=-2)
