"""Add, layer norm, token shift and the mixes of a layer, in one kernel."""

import triton
import triton.language as tl


@triton.jit
def norm_mix(
    X,
    delta,
    X_new,
    weight,
    bias,
    shares,
    shift,
    mixed,
    sequence,
    begin,
    read,
    write,
    D,
    slot_size,
    layer_offset,
    rows,
    eps,
    PARTS: tl.constexpr,
    MIXES: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute X_new = X + sum of delta, x = LN(X_new), mixed[m] = x + (x_before - x) shares[m].

    x_before belongs to the row before; for the first row of a sequence it is the shift state. The x
    of the last row becomes the new shift state.

    Grid (rows, D / BLOCK). Every program sums the whole row, because one program for each row would
    be limited by its stores: it writes BLOCK channels of X_new and of every mix.

    Args:
        X: (rows, D) float32. X_new has the same shape; it must be other memory, because the
            programs of the next row read X too.
        delta: (PARTS, rows, D) float32.
        weight, bias: (D,) of the norm.
        shares: (MIXES, D).
        shift: shift states, slot_size numbers per slot; this layer's begin at layer_offset.
        mixed: (MIXES, rows, D) in the dtype of the weights.
        sequence, begin, read, write: see `wkv.gpu.rows.PackedRows`.
        WIDE: the power of two from D.
    """
    row, block = tl.program_id(0), tl.program_id(1)
    whole = tl.arange(0, WIDE)
    here = block * BLOCK + tl.arange(0, BLOCK)
    inside = here < D
    w, b = tl.load(weight + here, mask=inside), tl.load(bias + here, mask=inside)

    mean, scale = _moments(_row(X, delta, row, whole, D, rows, PARTS), whole < D, D, eps)
    x = _row(X, delta, row, here, D, rows, PARTS)
    tl.store(X_new + row * D + here, x, mask=inside)
    x = (x - mean) * scale * w + b

    own = tl.load(sequence + row)
    if row == tl.load(begin + own):
        slot = tl.load(read + own).to(tl.int64)
        before = tl.load(shift + slot * slot_size + layer_offset + here, mask=inside, other=0.0)
    else:
        mean, scale = _moments(_row(X, delta, row - 1, whole, D, rows, PARTS), whole < D, D, eps)
        before = (_row(X, delta, row - 1, here, D, rows, PARTS) - mean) * scale * w + b
    if row + 1 == tl.load(begin + own + 1):
        slot = tl.load(write + own).to(tl.int64)
        tl.store(shift + slot * slot_size + layer_offset + here, x, mask=inside)

    for m in tl.static_range(MIXES):
        y = x + (before - x) * tl.load(shares + m * D + here, mask=inside)
        at = mixed + (m * rows + row) * D + here
        tl.store(at, y.to(mixed.dtype.element_ty), mask=inside)


@triton.jit
def norm_last(
    X,
    delta,
    weight,
    bias,
    normed,
    begin,
    D,
    rows,
    eps,
    PARTS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Compute LN(X + sum of delta) for the last row of each sequence. Grid (sequences,).

    normed is (sequences, D) in the dtype of the head; the other arguments are those of `norm_mix`.
    """
    own = tl.program_id(0)
    row = tl.load(begin + own + 1) - 1
    here = tl.arange(0, WIDE)
    inside = here < D
    x = _row(X, delta, row, here, D, rows, PARTS)
    mean, scale = _moments(x, inside, D, eps)
    w, b = tl.load(weight + here, mask=inside), tl.load(bias + here, mask=inside)
    y = (x - mean) * scale * w + b
    tl.store(normed + own * D + here, y.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _row(X, delta, row, here, D, rows, PARTS: tl.constexpr):
    """Return channels of a row of X with all parts of delta added, always in the same order."""
    x = tl.load(X + row * D + here, mask=here < D, other=0.0)
    for part in tl.static_range(PARTS):
        x += tl.load(delta + (part * rows + row) * D + here, mask=here < D, other=0.0)
    return x


@triton.jit
def _moments(x, inside, D, eps):
    """Return the mean of a row and the inverse of its standard deviation."""
    mean = tl.sum(x, 0) / D
    centered = tl.where(inside, x - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(centered * centered, 0) / D + eps)
