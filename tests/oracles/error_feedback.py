"""Int4 with error feedback, one row and one column at a time, in float64.

Written from the paper (arXiv 2210.17323, the version that updates the inverse after each column by
Gaussian elimination, not the one with a Cholesky factor) and from the file format: groups of 32
inputs, integers -8..7, a bf16 scale.
"""

import torch

GROUP, DAMPING = 32, 0.01
SHARES = (1.0, 1.05, 0.92, 0.84, 0.77)


def quantize(W, H):
    """Return the quantized weights (outputs, inputs) float64; inputs are a multiple of 32."""
    H = H.double() + DAMPING * H.double().diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
    inverse = torch.linalg.inv(H)
    W, Q = W.double().clone(), torch.zeros_like(W, dtype=torch.float64)
    for j in range(W.shape[1]):
        if j % GROUP == 0:
            group = slice(j, j + GROUP)
            scales = [scale_of(row, H.diagonal()[group]) for row in W[:, group]]
        for row, scale in enumerate(scales):
            q = 0.0 if scale == 0 else max(-8.0, min(7.0, float(round(float(W[row, j]) / scale))))
            Q[row, j] = q * scale
            error = (W[row, j] - Q[row, j]) / inverse[j, j]
            W[row, j:] -= error * inverse[j, j:]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j, :]) / inverse[j, j]
    return Q


def scale_of(weights, importance):
    """Return the scale with the least weighted squared error among those that are tried."""
    full = bf16(float(weights[weights.abs().argmax()]) / -8)
    if full == 0:
        return 0.0
    errors = {}
    for share in SHARES:
        q = (weights / full / share).round().clamp(-8, 7)
        scale = bf16(float((importance * weights * q).sum() / (importance * q * q).sum()))
        errors.setdefault(float((importance * (scale * q - weights) ** 2).sum()), scale)
    return errors[min(errors)]


def bf16(value):
    return float(torch.tensor(value, dtype=torch.float64).to(torch.bfloat16))
