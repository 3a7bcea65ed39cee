"""Several independent matrix products in one launch."""

import triton
import triton.language as tl

from wkv.gpu.kernels.functions import sigmoid
from wkv.gpu.packing import FIELDS, SIGMOID, SQUARED_RELU, TANH

COLUMNS = tl.constexpr(FIELDS)
IS_TANH, IS_SIGMOID, IS_SQUARED = (
    tl.constexpr(TANH),
    tl.constexpr(SIGMOID),
    tl.constexpr(SQUARED_RELU),
)
VECTOR = tl.constexpr(8)


@triton.jit
def products(
    x,
    weights,
    y,
    table,
    x_plane,
    x_row,
    y_row,
    rows,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Compute y[:, column...] = f(x[plane] W^T) for a few rows; each weight is read once.

    Grid (blocks of BLOCK_N outputs). The table of `wkv.gpu.packing.pack_products` says for each
    block which plane of x it reads, where its weights begin, and where its outputs go.

    A thread adds the products of VECTOR neighboring weights first. It keeps one sum for each such
    place of a row of weights, and these are added at the end. The order of a sum depends neither on
    the number of rows nor on other rows.

    Args:
        x: planes of (rows, inputs), x_plane numbers apart; rows are x_row numbers apart.
        weights: matrices (outputs, inputs), one after the other.
        y: float32; rows are y_row numbers apart.
        table: (blocks, FIELDS) int32.
    """
    entry = table + tl.program_id(0) * COLUMNS
    plane, first, K, column, outputs, function = read_entry(entry, x_plane)
    n, r, k = tl.arange(0, BLOCK_N), tl.arange(0, ROWS), tl.arange(0, BLOCK_K)
    w_at = weights + first + n[:, None] * K + k[None, :]
    x_at = x + plane + r[:, None] * x_row + k[None, :]
    is_output, is_row = n[:, None] < outputs, r[:, None] < rows
    sums = tl.zeros((ROWS, BLOCK_N, BLOCK_K // VECTOR), tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = k[None, :] < K - start
        w = tl.load(w_at + start, mask=is_output & inside, other=0.0).to(tl.float32)
        v = tl.load(x_at + start, mask=is_row & inside, other=0.0).to(tl.float32)
        product = tl.reshape(
            v[:, None, :] * w[None, :, :], (ROWS, BLOCK_N, BLOCK_K // VECTOR, VECTOR)
        )
        sums += tl.sum(product, 3)
    result = apply(tl.sum(sums, 2), function)
    tl.store(
        y + r[:, None] * y_row + column + n[None, :], result, mask=is_row & (n < outputs)[None]
    )


@triton.jit
def dot_products(
    x,
    weights,
    y,
    table,
    x_plane,
    x_row,
    y_row,
    rows,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    AS_FLOAT32: tl.constexpr,
):
    """Compute `products` for many rows with matrix instructions. Grid (blocks, rows / ROWS).

    Inputs are rounded to the dtype of the weights. AS_FLOAT32 multiplies them as float32, for
    Triton's interpreter, which multiplies the bit patterns of bf16 otherwise (Triton 3.9).
    """
    entry = table + tl.program_id(0) * COLUMNS
    plane, first, K, column, outputs, function = read_entry(entry, x_plane)
    n, k = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    w_at = weights + first + n[:, None] * K + k[None, :]
    x_at = x + plane + r[:, None] * x_row + k[None, :]
    is_output, is_row = n[:, None] < outputs, r[:, None] < rows
    sums = tl.zeros((ROWS, BLOCK_N), tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = k[None, :] < K - start
        w = tl.load(w_at + start, mask=is_output & inside, other=0.0)
        v = tl.load(x_at + start, mask=is_row & inside, other=0.0).to(w.dtype)
        if AS_FLOAT32:
            v, w = v.to(tl.float32), w.to(tl.float32)
        sums += tl.dot(v, tl.trans(w), input_precision="ieee")
    result = apply(sums, function)
    tl.store(
        y + r[:, None] * y_row + column + n[None, :], result, mask=is_row & (n < outputs)[None]
    )


@triton.jit
def read_entry(entry, x_plane):
    """Read the row of the table for a block.

    Returns:
        Offsets of the inputs and of the weights, the number of inputs, the first output, the number
        of outputs, and the function.
    """
    # The compiler must know that these are multiples of 16. It loads single numbers otherwise.
    plane = tl.multiple_of(tl.load(entry).to(tl.int64) * x_plane, 16)
    first = tl.multiple_of(tl.load(entry + 1).to(tl.int64), 16)
    K = tl.multiple_of(tl.load(entry + 2), 16)
    return plane, first, K, tl.load(entry + 3), tl.load(entry + 4), tl.load(entry + 5)


@triton.jit
def apply(x, function):
    """Apply the function of a block; functions are numbered in `wkv.gpu.packing`."""
    if function == IS_TANH:
        x = 2.0 * sigmoid(2.0 * x) - 1.0
    elif function == IS_SIGMOID:
        x = sigmoid(x)
    elif function == IS_SQUARED:
        x = tl.where(x > 0, x * x, 0.0)
    return x
