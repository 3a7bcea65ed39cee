"""Pack matrices for the native engine, and unpack them.

A matrix (outputs, inputs) is stored in one of five formats:

    fp32, fp16, bf16   one number per weight
    int8               w = (q - 128) scale,  q in 1..255, one scale per 32 inputs of an output
    int4               w = (q - 8) scale,    q in 0..15,  likewise

Scales are bf16, which has the range of float32; q is chosen for the scale after rounding to bf16.
A matrix has one of three layouts, which `native/source/products_*.inl` describe next to the code
that reads them:

    rows      output after output, as in checkpoints (fp32, fp16, bf16)
    blocks    16 outputs side by side (int8, int4)
    columns   input after input, in panels of 128 outputs, so that inputs that are zero are skipped
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from wkv.ops.torch_settings import thread_limit, unlimited_threads

GROUP, BLOCK, PANEL = 32, 16, 128
"""Number of inputs that share a scale, of outputs in a block, and of outputs in a panel."""

VERSION = 1
"""Version of the bytes of packed matrices, which files store. Increase it when the bytes change."""

SMALLEST_SCALE = 1e-37
"""The smallest scale whose inverse is finite in float32; weights with a smaller scale become 0."""

WEIGHTS_AT_ONCE = 2**18
"""Number of weights that are quantized at a time: few enough to stay in the cache of a core."""

SHARES = (1.0, 1.05, 0.92, 0.84, 0.77)
"""Factors of the full int4 scale that are tried for each group of weights.

At the full scale the group's largest weight is represented exactly. The relative error of the
built-in model's weights is 8.76 % with these five factors, 8.73 % with twelve, 9.4 % with one."""


class Format(IntEnum):
    """The number format of a weight. The values are those of `native/source/engine.h`."""

    fp32 = 0
    fp16 = 1
    bf16 = 2
    int8 = 3
    int4 = 4

    @property
    def is_integer(self) -> bool:
        """Whether weights are integers with a scale per group."""
        return self in (Format.int8, Format.int4)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which weights are stored; uint8 for integer formats."""
        dtypes = {Format.fp32: torch.float32, Format.fp16: torch.float16}
        return dtypes.get(self, torch.uint8 if self.is_integer else torch.bfloat16)

    @property
    def bits(self) -> float:
        """The number of bits per weight, including its share of the scale."""
        bits = {Format.fp32: 32, Format.fp16: 16, Format.bf16: 16, Format.int8: 8, Format.int4: 4}
        return bits[self] + (16 / GROUP if self.is_integer else 0)


class Layout(IntEnum):
    """The memory layout of a matrix. The values are those of `native/source/engine.h`."""

    rows = 0
    blocks = 1
    columns = 2


@dataclass(frozen=True)
class Packed:
    """A matrix in the form that the native engine reads.

    Attributes:
        format, layout: number format and memory layout.
        outputs, inputs: shape of the matrix.
        data: contiguous tensor of dtype `format.dtype`; its shape is (outputs, inputs) for the
            layout rows, otherwise it is flat and may include padding.
        name: official name of the matrix; "" for one that belongs to no checkpoint.
    """

    format: Format
    layout: Layout
    outputs: int
    inputs: int
    data: Tensor
    name: str = ""


DTYPES = {torch.float32: Format.fp32, torch.float16: Format.fp16, torch.bfloat16: Format.bf16}


def format_for(name: str, packed: str | None, dtype: torch.dtype) -> Format:
    """Return the format of a matrix for a strategy.

    Args:
        name: official name of the matrix.
        packed: "int8" or "int4" if the strategy packs matrices, else None.
        dtype: dtype of the strategy, which is used if `packed` is None.
    """
    if packed is None:
        return DTYPES[dtype]
    # Low-rank factors are a few percent of the weights, so int8 costs almost no time there. Of
    # the loss by int4 (a KL divergence of 0.022 nats per token for the built-in model), the head
    # causes 39 %, and 92 % and 98 % in two other trained models; the first layer, or any one
    # matrix of all other layers, causes at most 25 %. The head is int4 nevertheless, because int8
    # would make a 0.1 B model 29 % slower (1.5 B: 8 %) and gain only 0.003 bits per byte.
    is_factor = not name.endswith(".weight")
    return Format.int8 if is_factor else Format[packed]


def layout_for(format: Format, *, sparse_inputs: bool = False) -> Layout:
    """Return the layout of a matrix; `sparse_inputs` says that many of its inputs will be zero."""
    if sparse_inputs:
        return Layout.columns
    return Layout.blocks if format.is_integer else Layout.rows


def pack(weight: Tensor, format: Format, layout: Layout) -> Packed:
    """Pack a floating point matrix (outputs, inputs).

    For the layout rows the data is not copied if the matrix already has the right dtype.
    """
    outputs, inputs = weight.shape
    if layout is Layout.rows:
        data = weight.to(format.dtype).contiguous()
    elif not format.is_integer:
        panels = _padded(weight.to(format.dtype), PANEL, 1).view(-1, PANEL, inputs)
        data = panels.transpose(1, 2).contiguous().view(-1)
    else:
        return pack_integers(*quantize(weight, format), format, layout, inputs)
    return Packed(format, layout, outputs, inputs, data)


def pack_integers(q: Tensor, scales: Tensor, format: Format, layout: Layout, inputs: int) -> Packed:
    """Pack integers and scales, as `quantize` returns them, of a matrix with `inputs` columns."""
    return Packed(format, layout, len(q), inputs, _to_bytes(q, scales, format, layout))


def unpack(packed: Packed) -> Tensor:
    """Return a packed matrix as (outputs, inputs) float32."""
    shape = packed.outputs, packed.inputs
    if packed.layout is Layout.rows:
        return packed.data.float()
    if not packed.format.is_integer:
        panels = packed.data.view(-1, packed.inputs, PANEL).transpose(1, 2)
        return panels.reshape(-1, packed.inputs)[: shape[0]].float()
    q, scales = _from_bytes(packed)
    zero = 128 if packed.format is Format.int8 else 8
    weights = (q.float() - zero).view(*scales.shape, GROUP) * scales.float()[..., None]
    padded = weights.flatten(1)
    matrix = padded[: shape[0], : shape[1]]
    if matrix.shape == padded.shape:
        return padded
    # A copy, because a view would keep the memory of the padding alive.
    return matrix.clone(memory_format=torch.contiguous_format)


def packed_bytes(format: Format, layout: Layout, outputs: int, inputs: int) -> int:
    """Return the size of a packed integer matrix in bytes."""
    height = PANEL if layout is Layout.columns else BLOCK
    groups = -(-inputs // GROUP)
    weights = groups * GROUP if format is Format.int8 else groups * GROUP // 2
    return -(-outputs // height) * height * (weights + 2 * groups)


def round_like_packed(weight: Tensor, name: str, packed: str) -> Tensor:
    """Round a matrix as `pack` does, for an engine that cannot read packed matrices.

    Low-rank factors, whose names do not end in `.weight`, have the shape (..., inputs, outputs).

    Returns:
        float32, of the same shape.
    """
    format = format_for(name, packed, torch.float32)
    if name.endswith(".weight"):
        return unpack(pack(weight, format, Layout.blocks))
    factors = weight.reshape(-1, *weight.shape[-2:])
    results = [unpack(pack(factor.t(), format, Layout.blocks)).t() for factor in factors]
    return torch.stack(results).view(weight.shape)


def quantize(weight: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """Quantize a floating point matrix to integers and scales.

    Returns:
        q (outputs, inputs padded to a multiple of 32) uint8, and scales (outputs, groups) bf16.
        Padding represents the weight zero.
    """
    groups = _padded(weight, 1, GROUP).view(-1, GROUP)
    step = WEIGHTS_AT_ONCE // GROUP
    q = torch.empty(groups.shape, dtype=torch.uint8)
    scales = torch.empty(len(groups), dtype=torch.bfloat16)
    method: Callable[[Tensor], tuple[Tensor, Tensor]] = {
        Format.int8: _nearest_int8,
        Format.int4: best_int4,
    }[format]

    def piece(start: int) -> None:
        here = slice(start, start + step)
        q[here], scales[here] = method(groups[here].float())

    threads = unlimited_threads()
    # One PyTorch thread for each thread of the pool: more of them would compete for the cores.
    with thread_limit(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(piece, range(0, len(groups), step)))
    return q.view(len(weight), -1), scales.view(len(weight), -1)


def _nearest_int8(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize groups (n, 32) so that the largest weight of each becomes 127 above or below 128."""
    scales = _rounded_away(groups.abs().amax(1) / 127)
    q = (groups * inverse_scale(scales)[:, None]).round_().clamp_(-127, 127).add_(128)
    return q.to(torch.uint8), scales


def best_int4(groups: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize groups (n, 32) with the scale that has the smallest squared error.

    Integers are in -8..7. The full scale has the sign that makes the largest weight -8. A smaller
    scale clips this weight and represents the others better. Each scale in SHARES gives integers
    q, for which the best possible scale, sum(w q) / sum(q q), is then evaluated.

    Args:
        groups: float32.
        importance: (32,), factors of the squared errors of a group's weights; None: all are 1.

    Returns:
        Integers plus 8, (n, 32) uint8, and scales (n,) bf16.
    """
    largest = groups.abs().argmax(1, keepdim=True)
    full = (groups.gather(1, largest)[:, 0] / -8).to(torch.bfloat16)
    inverse = inverse_scale(full)[:, None]
    in_units = groups * inverse
    weighted = in_units if importance is None else in_units * importance
    least_error, best = torch.full_like(in_units[:, 0], float("inf")), full
    for share in SHARES:
        q = (in_units / share).round_().clamp_(-8, 7)
        products = (weighted * q).sum(1)
        squares = q.square_() if importance is None else q.square_().mul_(importance)
        squares = squares.sum(1)
        scales = (full.float() * (products / squares).nan_to_num_()).to(torch.bfloat16)
        scale = scales.float() * inverse[:, 0]
        # The squared error without the sum of w^2, which is the same for all scales.
        error = scale * (scale * squares - 2 * products)
        better = error < least_error
        least_error = torch.where(better, error, least_error)
        best = torch.where(better, scales, best)
    q = (groups * inverse_scale(best)[:, None]).round_().clamp_(-8, 7)
    return q.add_(8).to(torch.uint8), best


def _rounded_away(scales: Tensor) -> Tensor:
    """Round scales up to bf16, so that the largest weight of a group is not clipped."""
    nearest = scales.to(torch.bfloat16)
    above = (nearest.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(nearest.float() < scales, above, nearest)


def inverse_scale(scales: Tensor) -> Tensor:
    """Return 1 / scale, or 0 where the scale is 0 or too small for a finite inverse."""
    scales = scales.float()
    return torch.where(scales.abs() < SMALLEST_SCALE, 0, 1 / scales)


def _padded(matrix: Tensor, outputs: int, inputs: int) -> Tensor:
    """Pad a matrix with zeros to multiples of the given numbers of outputs and inputs."""
    missing = -len(matrix) % outputs, -matrix.shape[1] % inputs
    if missing == (0, 0):
        return matrix.contiguous()
    return torch.nn.functional.pad(matrix, (0, missing[1], 0, missing[0]))


def _to_bytes(q: Tensor, scales: Tensor, format: Format, layout: Layout) -> Tensor:
    """Arrange integers and scales as the flat uint8 tensor of a layout."""
    height = BLOCK if layout is Layout.blocks else PANEL
    missing = -len(q) % height
    zero = 128 if format is Format.int8 else 8
    q = torch.nn.functional.pad(q, (0, 0, 0, missing), value=zero)
    scales = torch.nn.functional.pad(scales, (0, 0, 0, missing))
    parts, groups = len(q) // height, scales.shape[1]
    if layout is Layout.blocks:  # (parts, groups, fours, outputs, 4)
        ordered = q.view(parts, height, groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
        halves = ordered.reshape(parts, -1, 2, 4 * BLOCK)
    else:  # (parts, inputs, outputs), with each 4 x 4 tile of 64 outputs transposed
        ordered = q.view(parts, 2, 4, 4, 4, -1).permute(0, 5, 1, 3, 2, 4)
        halves = ordered.reshape(parts, -1, 2, 64)
    pairs = halves[:, :, 0] | halves[:, :, 1] << 4
    weights = (ordered if format is Format.int8 else pairs).reshape(parts, -1)
    by_group = scales.view(parts, height, groups).transpose(1, 2).contiguous().view(parts, -1)
    return torch.cat([weights, by_group.view(torch.uint8)], dim=1).view(-1)


def _from_bytes(packed: Packed) -> tuple[Tensor, Tensor]:
    """Return the integers and scales that `_to_bytes` arranged, including the padding."""
    columns = packed.layout is Layout.columns
    height = PANEL if columns else BLOCK
    parts = -(-packed.outputs // height)
    groups = -(-packed.inputs // GROUP)
    pieces = packed.data.view(parts, -1)
    size = 2 * height * groups
    weights = pieces[:, : pieces.shape[1] - size]
    scales = pieces[:, pieces.shape[1] - size :].contiguous().view(torch.bfloat16)
    if packed.format is Format.int4:
        pairs = weights.reshape(parts, -1, 1, 64)
        weights = torch.cat([pairs & 15, pairs >> 4], dim=2)
    if columns:
        q = weights.reshape(parts, -1, 2, 4, 4, 4).permute(0, 2, 4, 3, 5, 1)
    else:
        q = weights.reshape(parts, groups, GROUP // 4, height, 4).permute(0, 3, 1, 2, 4)
    scales = scales.view(parts, groups, height).transpose(1, 2)
    return q.reshape(parts * height, -1), scales.reshape(parts * height, groups)
