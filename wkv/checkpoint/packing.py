"""How weights are written for the native engine, and back.

A matrix (outputs, inputs) is written in one of five formats:

    fp32, fp16, bf16   a number for each weight
    int8               w = (q - 128) scale,  q in 1..255, a scale for each 32 inputs of an output
    int4               w = (q - 8) scale,    q in 0..15,  likewise

Scales are bf16: it has the range of float32, and q is chosen for the scale as it was rounded. And
in one of three layouts, which `native/source/products_*.inl` describe beside what reads them:

    rows      output after output, as checkpoints have it (fp32, fp16, bf16)
    blocks    16 outputs side by side (int8, int4)
    columns   input after input, in panels of 128 outputs: an input that is zero costs nothing
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from wkv.ops.torch_settings import at_most, unheld

GROUP, BLOCK, PANEL = 32, 16, 128
"""Inputs that share a scale; outputs of a block; outputs of a panel."""

VERSION = 1
"""Of the bytes of packed matrices; files say it. Raise it when they change."""

SMALLEST_SCALE = 1e-37
"""Below which 1 / scale is no number; such weights are zero."""

WEIGHTS_AT_ONCE = 2**18
"""Weights that are quantized at a time: few enough to stay in a core's cache."""

SHARES = (1.0, 1.05, 0.92, 0.84, 0.77)
"""Of the scale at which int4 represents the largest weight of a group, tried in turn. The error of
the built-in model's weights is 8.76 % with these, 8.73 % with twelve, 9.4 % with one."""


class Format(IntEnum):
    """How a weight is written. The numbers are those of `native/source/engine.h`."""

    fp32 = 0
    fp16 = 1
    bf16 = 2
    int8 = 3
    int4 = 4

    @property
    def is_integer(self) -> bool:
        """Whether weights are small integers with scales."""
        return self in (Format.int8, Format.int4)

    @property
    def dtype(self) -> torch.dtype:
        """Of a weight; bytes where weights are integers."""
        dtypes = {Format.fp32: torch.float32, Format.fp16: torch.float16}
        return dtypes.get(self, torch.uint8 if self.is_integer else torch.bfloat16)

    @property
    def bits(self) -> float:
        """Bits of a weight, with its part of the scale."""
        own = {Format.fp32: 32, Format.fp16: 16, Format.bf16: 16, Format.int8: 8, Format.int4: 4}
        return own[self] + (16 / GROUP if self.is_integer else 0)


class Layout(IntEnum):
    """How a matrix lies in memory. The numbers are those of `native/source/engine.h`."""

    rows = 0
    blocks = 1
    columns = 2


@dataclass(frozen=True)
class Packed:
    """A matrix as the engine reads it.

    Attributes:
        format, layout: how it is written.
        outputs, inputs: its shape.
        data: contiguous; for rows (outputs, inputs), else flat; of `format.dtype`.
    """

    format: Format
    layout: Layout
    outputs: int
    inputs: int
    data: Tensor


DTYPES = {torch.float32: Format.fp32, torch.float16: Format.fp16, torch.bfloat16: Format.bf16}


def format_for(name: str, packed: str | None, dtype: torch.dtype) -> Format:
    """The format of a matrix, by its official name, in a strategy's dtype or packed format."""
    if packed is None:
        return DTYPES[dtype]
    # The low-rank factors are a few percent of the weights: in int8 they cost next to no time.
    # Of what int4 loses on the built-in model (KL 0.022 nats a token) the head is 39 %, of two
    # other trained ones 92 and 98 %; the first layer, or any matrix of all others, 25 % at most.
    # But in int8 it would cost a 0.1 B model 29 % of its speed (1.5 B: 8 %) for 0.003 bits a byte.
    whole = name.endswith(".weight")
    return Format[packed] if whole else Format.int8


def layout_for(format: Format, *, sparse_inputs: bool = False) -> Layout:
    """The layout of a matrix, which depends on whether many of its inputs are zero."""
    if sparse_inputs:
        return Layout.columns
    return Layout.blocks if format.is_integer else Layout.rows


def pack(weight: Tensor, format: Format, layout: Layout) -> Packed:
    """Write a matrix (outputs, inputs) of floats. In rows, without a cast, nothing is copied."""
    outputs, inputs = weight.shape
    if layout is Layout.rows:
        data = weight.to(format.dtype).contiguous()
    elif not format.is_integer:
        panels = _padded(weight.to(format.dtype), PANEL, 1).view(-1, PANEL, inputs)
        data = panels.transpose(1, 2).contiguous().view(-1)
    else:
        data = _written(*quantize(weight, format), format, layout)
    return Packed(format, layout, outputs, inputs, data)


def unpack(packed: Packed) -> Tensor:
    """The matrix that a packed one stands for, (outputs, inputs) float32."""
    shape = packed.outputs, packed.inputs
    if packed.layout is Layout.rows:
        return packed.data.float()
    if not packed.format.is_integer:
        panels = packed.data.view(-1, packed.inputs, PANEL).transpose(1, 2)
        return panels.reshape(-1, packed.inputs)[: shape[0]].float()
    q, scales = _read(packed)
    zero = 128 if packed.format is Format.int8 else 8
    weights = (q.float() - zero).view(*scales.shape, GROUP) * scales.float()[..., None]
    whole = weights.flatten(1)
    part = whole[: shape[0], : shape[1]]
    if part.shape == whole.shape:
        return whole
    return part.clone(memory_format=torch.contiguous_format)  # no padding is kept alive


def packed_bytes(format: Format, layout: Layout, outputs: int, inputs: int) -> int:
    """Bytes of a packed matrix of integers."""
    height = PANEL if layout is Layout.columns else BLOCK
    groups = -(-inputs // GROUP)
    weights = groups * GROUP if format is Format.int8 else groups * GROUP // 2
    return -(-outputs // height) * height * (weights + 2 * groups)


def rounded(weight: Tensor, name: str, packed: str) -> Tensor:
    """A matrix as it is after packing, in float32, for an engine that does not read packed ones.

    Low-rank factors, whose names do not end in `.weight`, are stored (..., inputs, outputs).
    """
    format = format_for(name, packed, torch.float32)
    if name.endswith(".weight"):
        return unpack(pack(weight, format, Layout.blocks))
    factors = weight.reshape(-1, *weight.shape[-2:])
    turned = [unpack(pack(one.t(), format, Layout.blocks)).t() for one in factors]
    return torch.stack(turned).view(weight.shape)


def quantize(weight: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    """The integers and scales of a matrix of floats.

    Returns:
        q (outputs, inputs padded to 32) uint8, and scales (outputs, groups) bf16. Padding is zero.
    """
    groups = _padded(weight, 1, GROUP).view(-1, GROUP)
    step = WEIGHTS_AT_ONCE // GROUP
    q = torch.empty(groups.shape, dtype=torch.uint8)
    scales = torch.empty(len(groups), dtype=torch.bfloat16)
    method: Callable[[Tensor], tuple[Tensor, Tensor]] = {
        Format.int8: _nearest_int8,
        Format.int4: _best_int4,
    }[format]

    def piece(start: int) -> None:
        here = slice(start, start + step)
        q[here], scales[here] = method(groups[here].float())

    threads = unheld()
    # One of PyTorch's for each of the pool's: more would wait for each other.
    with at_most(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(piece, range(0, len(groups), step)))
    return q.view(len(weight), -1), scales.view(len(weight), -1)


def _nearest_int8(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The largest weight of each group becomes 127."""
    scales = _rounded_away(groups.abs().amax(1) / 127)
    q = (groups * _inverse(scales)[:, None]).round_().clamp_(-127, 127).add_(128)
    return q.to(torch.uint8), scales


def _best_int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Of several scales the one with the least squared error.

    The range is -8..7: the full scale has the sign that lets the largest weight become -8. A
    smaller one clips that weight and represents the others better. Each is tried for the integers
    that it gives, and for these then replaced by the best one there is, sum(w q) / sum(q q).
    """
    at = groups.abs().argmax(1, keepdim=True)
    full = (groups.gather(1, at)[:, 0] / -8).to(torch.bfloat16)
    in_units = groups * _inverse(full)[:, None]
    least, kept = torch.full_like(in_units[:, 0], float("inf")), full
    for share in SHARES:
        q = (in_units / share).round_().clamp_(-8, 7)
        along = (in_units * q).sum(1)
        size = q.square_().sum(1)
        scales = (full.float() * (along / size).nan_to_num_()).to(torch.bfloat16)
        scale = scales.float() * _inverse(full)
        error = scale * (scale * size - 2 * along)  # but for the sum of squares of the weights
        better = error < least
        least = torch.where(better, error, least)
        kept = torch.where(better, scales, kept)
    q = (groups * _inverse(kept)[:, None]).round_().clamp_(-8, 7)
    return q.add_(8).to(torch.uint8), kept


def _rounded_away(scales: Tensor) -> Tensor:
    """To bf16, away from zero: so no weight is beyond what its scale reaches."""
    nearest = scales.to(torch.bfloat16)
    above = (nearest.view(torch.int16) + 1).view(torch.bfloat16)
    return torch.where(nearest.float() < scales, above, nearest)


def _inverse(scales: Tensor) -> Tensor:
    """1 / scale, 0 where a group is zero, or so small that there is no such number."""
    scales = scales.float()
    return torch.where(scales.abs() < SMALLEST_SCALE, 0, 1 / scales)


def _padded(matrix: Tensor, outputs: int, inputs: int) -> Tensor:
    """With zeros up to multiples of a number of outputs and of inputs."""
    more = -len(matrix) % outputs, -matrix.shape[1] % inputs
    if more == (0, 0):
        return matrix.contiguous()
    return torch.nn.functional.pad(matrix, (0, more[1], 0, more[0]))


def _written(q: Tensor, scales: Tensor, format: Format, layout: Layout) -> Tensor:
    """Integers and scales as bytes in a layout."""
    height = BLOCK if layout is Layout.blocks else PANEL
    fill = -len(q) % height
    zero = 128 if format is Format.int8 else 8
    q = torch.nn.functional.pad(q, (0, 0, 0, fill), value=zero)
    scales = torch.nn.functional.pad(scales, (0, 0, 0, fill))
    parts, groups = len(q) // height, scales.shape[1]
    if layout is Layout.blocks:  # (parts, groups, fours, outputs, 4)
        ordered = q.view(parts, height, groups, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
        halves = ordered.reshape(parts, -1, 2, 4 * BLOCK)
    else:  # (parts, inputs, outputs), 4 x 4 pieces of each 64 outputs turned
        ordered = q.view(parts, 2, 4, 4, 4, -1).permute(0, 5, 1, 3, 2, 4)
        halves = ordered.reshape(parts, -1, 2, 64)
    both = halves[:, :, 0] | halves[:, :, 1] << 4
    weights = (ordered if format is Format.int8 else both).reshape(parts, -1)
    turned = scales.view(parts, height, groups).transpose(1, 2).contiguous().view(parts, -1)
    return torch.cat([weights, turned.view(torch.uint8)], dim=1).view(-1)


def _read(packed: Packed) -> tuple[Tensor, Tensor]:
    """What `_written` was given, with its padding."""
    columns = packed.layout is Layout.columns
    height = PANEL if columns else BLOCK
    parts = -(-packed.outputs // height)
    groups = -(-packed.inputs // GROUP)
    pieces = packed.data.view(parts, -1)
    size = 2 * height * groups
    weights = pieces[:, : pieces.shape[1] - size]
    scales = pieces[:, pieces.shape[1] - size :].contiguous().view(torch.bfloat16)
    if packed.format is Format.int4:
        both = weights.reshape(parts, -1, 1, 64)
        weights = torch.cat([both & 15, both >> 4], dim=2)
    if columns:
        q = weights.reshape(parts, -1, 2, 4, 4, 4).permute(0, 2, 4, 3, 5, 1)
    else:
        q = weights.reshape(parts, groups, GROUP // 4, height, 4).permute(0, 3, 1, 2, 4)
    scales = scales.view(parts, groups, height).transpose(1, 2)
    return q.reshape(parts * height, -1), scales.reshape(parts * height, groups)
