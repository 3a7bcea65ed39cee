"""ChatRWKV's int8 quantization: bytes with an offset and a scale per row and per column.

    W[o, i] = (q[o, i] + 1/2) ry[i] rx[o] + my[i] + mx[o]        q in 0..255

The product is computed without forming W:

    y[o] = rx[o] sum_i (q[o, i] + 1/2) (ry[i] x[i])  +  sum_i x[i] my[i]  +  mx[o] sum_i x[i]

Bytes are stored minus 128, as int8, because PyTorch's product of a 16-bit row and an 8-bit matrix
reads this dtype. Offsets and scales are float32.

Source: the `rwkv` package, model.py. There, a constant row or column leads to 0 / 0.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wkv.models.strategy import Placement
from wkv.models.strategy.products import Product, linear

PARTS = ("mx", "my", "rx", "ry")
"""Suffixes of the offsets and scales in files: `NAME.weight_mx` and so on."""

OUTPUT_PARTS = ("mx", "rx")
"""The suffixes of tensors with one value per output; the others have one value per input."""

SCALE = re.compile(r"(.*\.weight)_(mx|my|rx|ry)")
"""The pattern of the names of offsets and scales."""

OFFSET = 128
CENTRE = OFFSET + 0.5
BYTE_SCALE = 16
"""rx and ry store the largest value divided by 16 each, so that their product divides q by 256."""

MAX_INPUT_SUM, MIN_INPUT_SUM = 256.0, 1e-30
"""Sum of absolute inputs to which a row is scaled, and its lower limit.

With bytes up to 128 the product then stays below 65504, the largest fp16 number."""

FEW_ROWS = 8
"""Largest number of rows for which the fused product is faster than converting bytes to floats."""

BLOCK, GPU_BLOCK = 2**18, 2**24
"""Numbers of weights that are converted to floats at a time, so that they stay in the cache."""


def quantize(weight: Tensor) -> dict[str, Tensor]:
    """Quantize a matrix (out, in) to int8.

    The offsets of the longer axis are subtracted first. Each offset is a minimum and each scale a
    maximum, so that the remainder is in [0, 1].

    Returns:
        `weight` int8, and `weight_mx`, `weight_my`, `weight_rx`, `weight_ry` float32.
    """
    rest = weight.to(torch.float32, copy=True)  # modified in place, because a head is large
    outputs, inputs = rest.shape
    if inputs > outputs:
        my = rest.amin(0)
        mx = rest.sub_(my).amin(1)
        rest.sub_(mx[:, None])
    else:
        mx = rest.amin(1)
        my = rest.sub_(mx[:, None]).amin(0)
        rest.sub_(my)
    rx = _nonzero(rest.amax(1))
    ry = _nonzero(rest.div_(rx[:, None]).amax(0))
    q = rest.div_(ry).mul_(256).floor_().clamp_(0, 255).sub_(OFFSET)
    return {
        "weight": q.to(torch.int8),
        "weight_mx": mx,
        "weight_my": my,
        "weight_rx": rx / BYTE_SCALE,
        "weight_ry": ry / BYTE_SCALE,
    }


def dequantize(parts: Mapping[str, Tensor]) -> Tensor:
    """Return the matrix (out, in) of the parts that `quantize` returns, in float32."""
    mx, my, rx, ry = (parts[f"weight_{part}"].float().flatten() for part in PARTS)
    weight = (parts["weight"].float() + CENTRE).mul_(ry).mul_(rx[:, None])
    return weight.add_(my).add_(mx[:, None])


def _nonzero(scale: Tensor) -> Tensor:
    """Replace scales of 0, which constant rows and columns have, by 1."""
    return torch.where(scale == 0, 1.0, scale)


class Int8Linear(nn.Module):
    """A replacement of `Linear` for an int8 matrix.

    Attributes:
        product: multiplies by the bytes; the function that loads weights may replace it.
        input_dtype: the dtype to which inputs are rounded before they are scaled.
        weight: (out, in) int8.
        weight_mx, weight_rx: (out,) float32.
        weight_my, weight_ry: (in,) float32.
    """

    weight: Tensor
    weight_mx: Tensor
    weight_my: Tensor
    weight_rx: Tensor
    weight_ry: Tensor

    def __init__(self, n_in: int, n_out: int, placement: Placement) -> None:
        super().__init__()
        self.placement = placement
        self.product: Product = int8_linear
        self.input_dtype = torch.float32
        self.register_buffer("weight", torch.empty(n_out, n_in, dtype=torch.int8))
        for name, size in (("mx", n_out), ("my", n_in), ("rx", n_out), ("ry", n_in)):
            self.register_buffer(f"weight_{name}", torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) of any dtype to (..., n_out) float32."""
        rows = x.reshape(-1, x.shape[-1]).float()
        scaled = rows * self.weight_ry
        # Rows are scaled to the same size, so that their products with bytes are finite in fp16.
        size = (scaled.abs().sum(-1, keepdim=True) / MAX_INPUT_SUM).clamp(min=MIN_INPUT_SUM)
        y = self.product((scaled / size).to(self.placement.dtype), self.weight).float() * size
        y = (y + CENTRE * scaled.sum(-1, keepdim=True)) * self.weight_rx
        y += (rows @ self.weight_my)[:, None] + rows.sum(-1, keepdim=True) * self.weight_mx
        return y.view(*x.shape[:-1], -1)

    def in_weight_dtype(self, x: Tensor) -> Tensor:
        """Compute `forward`, which is at least as precise as the weight dtype of a `Linear`."""
        return self.forward(x)


def int8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x (T, in) by an int8 matrix (out, in); the result has the dtype of x or float32."""
    fused = x.device.type == "cpu" and x.dtype == torch.bfloat16
    if fused and len(x) <= FEW_ROWS and hasattr(torch, "_weight_int8pack_mm"):
        ones = torch.ones(len(weight), dtype=x.dtype)
        return torch._weight_int8pack_mm(x, weight, ones)
    block = BLOCK if x.device.type == "cpu" else GPU_BLOCK
    rows = torch.split(weight, max(1, block // weight.shape[1]))
    return torch.cat([linear(x, some.to(x.dtype), torch.float32) for some in rows], dim=-1)
