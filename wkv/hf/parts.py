"""The parts that the transformers classes of all generations share.

They are padding, token shift, norms and products. Dtypes are handled as in wkv's own models: a
matrix may have any dtype, in which only its product is computed. Vectors, norms, the residual
stream and the state are float32 (float64 after `model.double()`), also under autocast and if all
weights were cast to 16 bits.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COMPUTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Dtypes in which PyTorch multiplies matrices; others are of packed weights."""


class Padding(NamedTuple):
    """A description of which tokens of a batch are real and which are padding.

    Attributes:
        real: (B, T, 1), 1 for real tokens, 0 for padding, in the dtype of the residual stream.
        previous: (B, T + 1) int64. Column t is the position of the last real token before t, plus
            one, or 0 if there is none in this call.
    """

    real: Tensor
    previous: Tensor


def padding_of(attention_mask: Tensor | None, X: Tensor) -> Padding | None:
    """Convert an attention mask, whose last T columns belong to X (B, T, D).

    Padding may be anywhere in a row.

    Returns:
        The padding, or None if all tokens are real.

    Raises:
        ValueError: if the mask is not (B, T or more).
    """
    if attention_mask is None:
        return None
    batch, tokens, _ = X.shape
    if (
        attention_mask.dim() != 2
        or attention_mask.shape[0] != batch
        or attention_mask.shape[1] < tokens
    ):
        raise ValueError(
            f"attention_mask is {tuple(attention_mask.shape)}, expected ({batch}, {tokens}) or, "
            "after earlier tokens, more columns"
        )
    real = attention_mask[:, -tokens:].to(X.device) != 0
    if not torch.compiler.is_compiling() and bool(real.all()):
        return None
    return Padding(real[..., None].to(X.dtype), previous_real(real))


def previous_real(real: Tensor) -> Tensor:
    """Return `Padding.previous` for real (B, T) bool, True for real tokens."""
    batch, tokens = real.shape
    # Column n of `places` is the n-th real token of the row, counted from 1. A running maximum
    # would be shorter, but ONNX has none.
    after = torch.arange(1, tokens + 1, device=real.device) * real
    number = real.long().cumsum(dim=1)
    places = after.new_zeros(batch, tokens + 1).scatter(1, number * real, after)
    return F.pad(places.gather(1, number), (1, 0))


def token_shift(x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
    """Return the input of the previous real token for each token, and the new shift state.

    Args:
        x: (B, T, D).
        last: (B, D), the input of the last real token before this call.
        padding: which tokens are real; None if all are.

    Returns:
        (B, T, D), and (B, D), the input of the last real token.
    """
    joined = torch.cat([last[:, None], x], dim=1)
    if padding is not None:
        joined = joined.gather(1, padding.previous[..., None].expand_as(joined))
    # The state is a copy, because a view would keep all of x in memory.
    return joined[:, :-1], joined[:, -1].clone()


def widen(x: Tensor) -> Tensor:
    """Convert a 16-bit tensor to float32; return any other tensor unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def vector(*shape: int) -> nn.Parameter:
    """Create a parameter without values, which loading or `fill` sets later."""
    return nn.Parameter(torch.empty(*shape))


def fill(parameter: nn.Parameter, value: Tensor | float) -> None:
    """Set the initial value of a parameter, unless it was loaded from a checkpoint."""
    if not getattr(parameter, "_is_hf_initialized", False):
        value = torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)
        with torch.no_grad():
            parameter.copy_(value.expand_as(parameter) if value.dim() == 0 else value)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer in the dtype of its weight; the result has x's dtype.

    The layers are plain `nn.Linear` modules, which programs find by their type and replace by
    quantized ones. A layer with packed weights converts its input itself.
    """
    dtype = layer.weight.dtype
    return layer(x.to(dtype) if dtype in COMPUTED_DTYPES else x).to(x.dtype)


def factor_product(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply x by a low-rank factor (in, out) in the factor's dtype; the result has x's dtype."""
    return (x.to(factor.dtype) @ factor).to(x.dtype)


def run(recurrence: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Call a recurrence without autocast, which would round the state."""
    device = inputs[0].device.type
    has_autocast = torch.amp.is_autocast_available(device)
    with torch.autocast(device, enabled=False) if has_autocast else nullcontext():
        return recurrence(*inputs)


class LayerNorm(nn.LayerNorm):
    """A layer norm of float32 tensors with weights of any dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        bias = None if self.bias is None else widen(self.bias)
        return F.layer_norm(x, self.normalized_shape, widen(self.weight), bias, self.eps)


class GroupNorm(nn.GroupNorm):
    """A norm of each head's N values, followed by a scale and a shift per channel, in float32."""

    def forward(self, y: Tensor) -> Tensor:
        """Map (B, T, H, N) to (B, T, H N)."""
        batch, tokens = y.shape[:2]
        flat = y.reshape(batch * tokens, -1)
        weight, bias = widen(self.weight), widen(self.bias)
        return F.group_norm(flat, self.num_groups, weight, bias, self.eps).view(batch, tokens, -1)


def ramp(count: int) -> Tensor:
    """Return (count,) values that increase linearly from 0 to 1."""
    return torch.linspace(0, 1, count, device="cpu")


def zigzag(count: int) -> Tensor:
    """Return (count,) values 0, 1/2, -1/2, 0, ..., with which neighboring channels differ."""
    return ((torch.arange(count, device="cpu") + 1) % 3 - 1) * 0.5
