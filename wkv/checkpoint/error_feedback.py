"""Quantize a matrix to int4 for the inputs that it reads on a text, with error feedback.

Rounding a weight changes the output of its row. If two inputs are correlated, the weight of the
second can undo a part of the change that the first one caused. So the columns of W are rounded one
after another, and after each the columns that follow are changed so that the error of the outputs,

    trace((W - Q) H (W - Q)^T),  with H = mean of x x^T over the inputs x of a text

is as small as it can be. With H^-1 = U^T U, where U is upper triangular, and the error of column j

    e = (W[:, j] - Q[:, j]) / U[j, j],  the change is  W[:, k] -= e U[j, k]  for k > j

The scale of a group of 32 columns is selected when its first column is reached: the one with the
least squared error, each column weighted by its mean square H[j, j].

Source: "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv 2210.17323 (order, damping and blocks of columns).
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional as F

from wkv.checkpoint.packing import GROUP, best_int4, inverse_scale
from wkv.ops.torch_settings import thread_limit, unlimited_threads

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to the diagonal, so that H can be inverted."""

COLUMNS_AT_ONCE = 128
"""Number of columns after which the columns behind them are changed, in one matrix product."""

OUTPUTS_AT_ONCE = 4096
"""Largest number of outputs that a thread rounds at a time: 128 columns of them fit in a cache."""


def quantize_with_feedback(weight: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a matrix to int4 so that its outputs change least on a text.

    Args:
        weight: (outputs, inputs), of any floating-point dtype.
        moments: H, the mean of x x^T over the inputs x of the matrix, (inputs, inputs), float32 or
            float64, which is also the dtype of the computation. Inputs that are always zero, and
            fewer independent inputs than columns, are allowed.

    Returns:
        q (outputs, inputs padded to a multiple of 32) uint8, and scales (outputs, groups) bf16, as
        `packing.quantize` does. Padding represents the weight zero.
    """
    outputs, inputs = weight.shape
    missing = -inputs % GROUP
    H = F.pad(moments, (0, missing, 0, missing))
    U, importance = feedback_factor(H)
    q = torch.empty(outputs, inputs + missing, dtype=torch.uint8)
    scales = torch.empty(outputs, (inputs + missing) // GROUP, dtype=torch.bfloat16)
    threads = unlimited_threads()
    step = min(OUTPUTS_AT_ONCE, -(-outputs // threads))

    def piece(start: int) -> None:
        rows = slice(start, start + step)
        columns = F.pad(weight[rows].to(H.dtype), (0, missing)).t().contiguous()
        q[rows], scales[rows] = _round_columns(columns, U, importance)

    # One PyTorch thread for each thread of the pool: more of them would compete for the cores.
    with thread_limit(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(piece, range(0, outputs, step)))
    return q, scales


def feedback_factor(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return U, upper triangular with (H + damping)^-1 = U^T U, and the damped diagonal of H.

    If the matrix cannot be factored in its dtype, the damping is raised tenfold. If H is zero or
    not finite, the identity is used instead, with which nothing is fed back.
    """
    diagonal = moments.diagonal()
    mean = diagonal.mean()
    damping = DAMPING
    while bool(mean.isfinite()) and mean > 0 and damping <= 1:
        damped = moments + damping * mean * torch.eye(len(moments), dtype=moments.dtype)
        # With rows and columns in reverse order, a lower factor becomes an upper one: H = M M^T.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed and bool(lower.isfinite().all()):
            identity = torch.eye(len(moments), dtype=moments.dtype)
            upper = lower.flip(0, 1)
            return torch.linalg.solve_triangular(upper, identity, upper=True), damped.diagonal()
        damping *= 10
    return torch.eye(len(moments), dtype=moments.dtype), torch.ones_like(diagonal)


def _round_columns(W: Tensor, U: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Round W (inputs, outputs), which is overwritten; returns q and scales, outputs first."""
    inputs = len(W)
    q = torch.empty(W.shape, dtype=torch.uint8)
    scales = torch.empty(inputs // GROUP, W.shape[1], dtype=torch.bfloat16)
    for begin in range(0, inputs, COLUMNS_AT_ONCE):
        end = min(begin + COLUMNS_AT_ONCE, inputs)
        errors = torch.empty(end - begin, W.shape[1], dtype=W.dtype)
        for j in range(begin, end):
            if j % GROUP == 0:
                group = slice(j, j + GROUP)
                _, scale = best_int4(W[group].t().float(), importance[group].float())
                scales[j // GROUP] = scale
                inverse, scale = inverse_scale(scale).to(W.dtype), scale.to(W.dtype)
            rounded = (W[j] * inverse).round_().clamp_(-8, 7)
            q[j] = (rounded + 8).to(torch.uint8)
            errors[j - begin] = error = (W[j] - rounded * scale) / U[j, j]
            W[j + 1 : end].addr_(U[j, j + 1 : end], error, alpha=-1)
        W[end:].addmm_(U[begin:end, end:].t(), errors, alpha=-1)
    return q.t(), scales.t()
