"""The channel mix between its products: squared ReLU, and a product that skips zeros."""

import triton
import triton.language as tl


@triton.jit
def sparse_value(
    hidden,
    weights,
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
    """Compute hidden W^T in parts of F; weights of inputs that are zero in all rows are not read.

    Grid (D / BLOCK_D, parts). A part consists of TILES tiles of BLOCK_F inputs. The parts are added
    by the next `norm_mix`, always in the same order. A masked load reads no memory, so no list of
    nonzero inputs is needed. 86 to 90 % of a trained model's squared ReLUs are zero.

    Args:
        hidden: (rows, F) float32, after the squared ReLU.
        weights: (F, D), the transposed matrix, so that the weights of an input are contiguous.
        parts: (parts, rows, D) float32.
        SKIP: whether weights of zeros are skipped; the result is the same.
        LANES: inputs of a tile that have separate sums until the end.
    """
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    part = tl.program_id(1)
    r, tile = tl.arange(0, ROWS), tl.arange(0, BLOCK_F)
    sums = tl.zeros((ROWS, LANES, BLOCK_D), tl.float32)
    for index in range(TILES):
        f = (part * TILES + index) * BLOCK_F + tile
        inside = f < F
        h = tl.load(
            hidden + r[:, None] * F + f[None, :],
            mask=(r[:, None] < rows) & inside[None, :],
            other=0.0,
        )
        if SKIP:
            inside = tl.max(tl.abs(h), 0) > 0
        at = weights + f[:, None].to(tl.int64) * D + d[None, :]
        w = tl.load(at, mask=inside[:, None] & (d[None, :] < D), other=0.0).to(tl.float32)
        product = tl.reshape(
            h[:, :, None] * w[None, :, :], (ROWS, BLOCK_F // LANES, LANES, BLOCK_D)
        )
        sums += tl.sum(product, 1)
    at = parts + (part * rows + r[:, None]) * D + d[None, :]
    tl.store(at, tl.sum(sums, 1), mask=(r[:, None] < rows) & (d[None, :] < D))


@triton.jit
def squared_relu(
    x,
    hidden,
    size,
    F,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute relu(x)^2 / size for each row, and size if SCALED; otherwise size is 1. Grid (rows,).

    size is the largest square of the row, (rows,) float32. fp16 needs it, because its largest
    number is the square of only 256.

    Args:
        x: (rows, F) float32.
        hidden: (rows, F) in the dtype of the weights.
    """
    row = tl.program_id(0).to(tl.int64)
    here = tl.arange(0, BLOCK)
    largest = 1.0
    if SCALED:
        most = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, F, BLOCK):
            at = x + row * F + start + here
            most = tl.maximum(most, tl.load(at, mask=start + here < F, other=0.0))
        largest = tl.max(most, 0)
        largest = tl.maximum(largest * largest, 1e-30)
        tl.store(size + row, largest)
    for start in range(0, F, BLOCK):
        inside = start + here < F
        h = tl.load(x + row * F + start + here, mask=inside, other=0.0)
        h = tl.where(h > 0, h * h, 0.0) / largest
        tl.store(hidden + row * F + start + here, h.to(hidden.dtype.element_ty), mask=inside)
