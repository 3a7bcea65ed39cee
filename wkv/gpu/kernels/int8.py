"""Products with ChatRWKV's int8 matrices, whose weights are converted in registers.

W[o, i] = (q[o, i] + 128.5) ry[i] rx[o] + my[i] + mx[o]
y[o] = rx[o] sum_i (q[o, i] + 128.5) (ry[i] x[i])  +  sum_i x[i] my[i]  +  mx[o] sum_i x[i]
"""

import triton
import triton.language as tl

from wkv.gpu.kernels.products import COLUMNS, apply, read_entry
from wkv.models.int8 import CENTRE

ZERO = tl.constexpr(CENTRE)
VECTOR = tl.constexpr(16)


@triton.jit
def int8_products(
    x,
    weights,
    inputs,
    outputs,
    y,
    table,
    x_plane,
    x_row,
    y_row,
    rows,
    ALL_K,
    ALL_N,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute `wkv.gpu.kernels.products.products` with int8 matrices. Grid (blocks,).

    Args:
        inputs: (2, ALL_K) float32, ry and my of all matrices.
        outputs: (2, ALL_N) float32, rx and mx.
    """
    entry = table + tl.program_id(0) * COLUMNS
    plane, first, K, column, count, function = read_entry(entry, x_plane)
    scales = inputs + tl.multiple_of(tl.load(entry + 6), 16)
    n, r, k = tl.arange(0, BLOCK_N), tl.arange(0, ROWS), tl.arange(0, BLOCK_K)
    w_at = weights + first + n[:, None] * K + k[None, :]
    x_at = x + plane + r[:, None] * x_row + k[None, :]
    is_output, is_row = n[:, None] < count, r[:, None] < rows
    sums = tl.zeros((ROWS, BLOCK_N, BLOCK_K // VECTOR), tl.float32)
    offsets, totals = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = k < K - start
        w = tl.load(w_at + start, mask=is_output & inside[None, :], other=0).to(tl.float32)
        v = tl.load(x_at + start, mask=is_row & inside[None, :], other=0.0).to(tl.float32)
        ry = tl.load(scales + start + k, mask=inside, other=0.0)
        my = tl.load(scales + ALL_K + start + k, mask=inside, other=0.0)
        offsets += tl.sum(v * my[None, :], 1)
        totals += tl.sum(v, 1)
        product = (v * ry[None, :])[:, None, :] * (w + ZERO)[None, :, :]
        product = tl.reshape(product, (ROWS, BLOCK_N, BLOCK_K // VECTOR, VECTOR))
        sums += tl.sum(product, 3)
    result = _scaled(tl.sum(sums, 2), offsets, totals, outputs + column + n, ALL_N, n < count)
    result = apply(result, function)
    tl.store(y + r[:, None] * y_row + column + n[None, :], result, mask=is_row & (n < count)[None])


@triton.jit
def int8_dot_products(
    x,
    weights,
    inputs,
    outputs,
    y,
    table,
    x_plane,
    x_row,
    y_row,
    rows,
    ALL_K,
    ALL_N,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute `int8_products` for more rows, with matrix instructions. Grid (blocks, rows / ROWS).

    TRANSPOSED: the weights are one matrix (inputs, outputs) instead. PRECISION is "tf32", which has
    the range of float32 and the precision of fp16, or "ieee".
    """
    entry = table + tl.program_id(0) * COLUMNS
    plane, first, K, column, count, function = read_entry(entry, x_plane)
    scales = inputs + tl.multiple_of(tl.load(entry + 6), 16)
    n, k = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    x_at = x + plane + r[:, None] * x_row + k[None, :]
    is_row = r[:, None] < rows
    sums = tl.zeros((ROWS, BLOCK_N), tl.float32)
    offsets, totals = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = k < K - start
        if TRANSPOSED:
            at = weights + tl.multiple_of(column, 16) + n[None, :]
            at += (start + k[:, None]).to(tl.int64) * ALL_N
            w = tl.load(at, mask=inside[:, None] & (n[None, :] < count), other=0)
        else:
            at = weights + first + n[:, None] * K + start + k[None, :]
            w = tl.trans(tl.load(at, mask=(n[:, None] < count) & inside[None, :], other=0))
        v = tl.load(x_at + start, mask=is_row & inside[None, :], other=0.0).to(tl.float32)
        ry = tl.load(scales + start + k, mask=inside, other=0.0)
        my = tl.load(scales + ALL_K + start + k, mask=inside, other=0.0)
        offsets += tl.sum(v * my[None, :], 1)
        totals += tl.sum(v, 1)
        w = w.to(tl.float32) + ZERO
        sums += tl.dot(v * ry[None, :], w, input_precision=PRECISION)
    result = _scaled(sums, offsets, totals, outputs + column + n, ALL_N, n < count)
    result = apply(result, function)
    tl.store(y + r[:, None] * y_row + column + n[None, :], result, mask=is_row & (n < count)[None])


@triton.jit
def int8_sparse_value(
    hidden,
    weights,
    inputs,
    outputs,
    parts,
    D,
    F,
    rows,
    SKIP: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    LANES: tl.constexpr,
):
    """Compute `wkv.gpu.kernels.sparse_value.sparse_value` with an int8 matrix (F, D)."""
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    part = tl.program_id(1)
    r, tile = tl.arange(0, ROWS), tl.arange(0, BLOCK_F)
    sums = tl.zeros((ROWS, LANES, BLOCK_D), tl.float32)
    offsets, totals = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for index in range(TILES):
        f = (part * TILES + index) * BLOCK_F + tile
        inside = f < F
        h = tl.load(
            hidden + r[:, None] * F + f[None, :],
            mask=(r[:, None] < rows) & inside[None, :],
            other=0.0,
        )
        ry = tl.load(inputs + f, mask=inside, other=0.0)
        my = tl.load(inputs + F + f, mask=inside, other=0.0)
        offsets += tl.sum(h * my[None, :], 1)
        totals += tl.sum(h, 1)
        if SKIP:
            inside = tl.max(tl.abs(h), 0) > 0
        at = weights + f[:, None].to(tl.int64) * D + d[None, :]
        w = tl.load(at, mask=inside[:, None] & (d[None, :] < D), other=0).to(tl.float32) + ZERO
        product = tl.reshape(
            (h * ry[None, :])[:, :, None] * w[None, :, :],
            (ROWS, BLOCK_F // LANES, LANES, BLOCK_D),
        )
        sums += tl.sum(product, 1)
    result = _scaled(tl.sum(sums, 1), offsets, totals, outputs + d, D, d < D)
    at = parts + (part * rows + r[:, None]) * D + d[None, :]
    tl.store(at, result, mask=(r[:, None] < rows) & (d[None, :] < D))


@triton.jit
def _scaled(sums, offsets, totals, at, ALL_N, inside):
    """Multiply sums by rx, and add what my and mx contribute."""
    rx = tl.load(at, mask=inside, other=0.0)
    mx = tl.load(at + ALL_N, mask=inside, other=0.0)
    return sums * rx[None, :] + offsets[:, None] + totals[:, None] * mx[None, :]
