"""The recurrence of RWKV-6: a state matrix per head with a decay per channel and token.

    y[m] = sum_n r[n] (u[n] k[n] v[m] + S[m, n])        (read before the update)
    S    <- S diag(exp(log_decay)) + v k^T

Source: "Eagle and Finch" paper (arXiv 2404.05892), section on Finch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16
"""Tokens per chunk. The inner decays of a chunk take C^2 N numbers per head."""

LOOP_BELOW = 6
"""Below this number of tokens, the loop is faster than the chunked form."""


def wkv6(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Advance the RWKV-6 state over T tokens and read it at each token.

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
    """Compute `wkv6` token by token: the definition, used for decoding."""
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
    """Compute `wkv6` in chunks of C tokens.

    With w = exp(log_decay), and products of w over the tokens of a chunk:

        A[t, i] = sum_n r_t[n] k_i[n] (w_{i+1} ... w_{t-1})[n]  (i < t) ;  A[t, t] = sum_n r u k
        Y  = A V + (r w_0 ... w_{t-1}) S^T
        S <- S diag(w_0 ... w_last) + V^T (k w_{i+1} ... w_last)

    Decays have no lower bound. A product computed as a quotient of two products could overflow, and
    a difference of two sums of logarithms would lose precision, so neither is used.
    """
    batch, tokens, heads, size = receptance.shape
    chunks = -(-tokens // chunk)
    shape = (batch, chunks, chunk, heads, size)

    def split(x: Tensor) -> Tensor:
        # Zero tokens at the end have no effect: their decay is exp(0), and they write nothing.
        x = F.pad(x, (0, 0, 0, 0, 0, chunks * chunk - tokens))
        return x.reshape(shape).permute(1, 0, 3, 2, 4)  # (chunks, B, H, C, N)

    r, ell, k, v = map(split, (receptance, log_decay, key, value))
    before = F.pad(ell[..., :-1, :].cumsum(-2), (0, 0, 1, 0))
    after = F.pad(ell[..., 1:, :].flip(-2).cumsum(-2).flip(-2), (0, 0, 0, 1))
    A = _inside(r, k, ell.exp()) + torch.diag_embed((r * bonus[:, None] * k).sum(-1))
    r_of_state = r * torch.exp(before)
    written = v.mT @ (k * torch.exp(after))
    kept = torch.exp(ell.sum(-2, keepdim=True))

    starts = []
    for step in range(chunks):
        starts.append(state)
        state = torch.addcmul(written[step], state, kept[step])
    Y = A @ v + r_of_state @ torch.stack(starts).mT
    y = Y.permute(1, 0, 3, 2, 4).reshape(batch, chunks * chunk, heads, size)
    return y[:, :tokens], state


def _inside(r: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    """Compute A[t, i] = sum_n r_t[n] k_i[n] (w_{i+1} ... w_{t-1})[n] for i < t, else 0."""
    size = r.shape[-2]
    rows = [torch.zeros_like(r[..., 0, :1]).expand(*r.shape[:-2], size)]
    decayed = k[..., :1, :]  # row t: k_i w_{i+1} ... w_{t-1} for all i < t
    for t in range(1, size):
        row = (decayed @ r[..., t, :, None]).squeeze(-1)
        rows.append(F.pad(row, (0, size - t)))
        decayed = torch.cat([decayed * decay[..., t : t + 1, :], k[..., t : t + 1, :]], dim=-2)
    return torch.stack(rows, dim=-2)
