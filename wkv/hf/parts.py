"""What the transformers classes of all generations share: padding, token shift, norms, products.

The rule for dtypes is that of wkv's own models. A matrix may have any dtype, and only its product
runs in it; vectors, norms, the residual stream and the state are float32 (float64 after
`model.double()`), also under autocast and when somebody has cast every weight to 16 bits.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Padding(NamedTuple):
    """Which tokens of a batch are real.

    Attributes:
        real: (B, T, 1), 1 at real tokens, 0 at padding, in the dtype of the residual stream.
        previous: (B, T + 1) int64. Column t holds the position after the last real token before
            t, or 0 if there is none before t in this call.
    """

    real: Tensor
    previous: Tensor


def padding_of(attention_mask: Tensor | None, X: Tensor) -> Padding | None:
    """Read the mask of X (B, T, D), whose last T columns belong to it.

    Returns:
        None if all tokens are real. Padding may lie anywhere in a row.

    Raises:
        ValueError: if the mask is not (B, T or more).
    """
    if attention_mask is None:
        return None
    batch, tokens, _ = X.shape
    if (
        attention_mask.dim() != 2
        or len(attention_mask) != batch
        or attention_mask.shape[1] < tokens
    ):
        raise ValueError(
            f"attention_mask is {tuple(attention_mask.shape)}, expected ({batch}, {tokens}) or, "
            "after earlier tokens, more columns"
        )
    real = attention_mask[:, -tokens:].to(X.device) != 0
    if not torch.compiler.is_compiling() and bool(real.all()):
        return None
    after = torch.arange(1, tokens + 1, device=X.device)
    previous = torch.where(real, after, 0).cummax(dim=1).values
    return Padding(real[..., None].to(X.dtype), F.pad(previous, (1, 0)))


def token_shift(x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
    """The input of the previous real token at each token, and the one to carry on.

    Args:
        x: (B, T, D).
        last: (B, D), the input of the last real token before this call.
        padding: which tokens are real; None if all are.

    Returns:
        (B, T, D) and (B, D).
    """
    joined = torch.cat([last[:, None], x], dim=1)
    if padding is not None:
        joined = joined.gather(1, padding.previous[..., None].expand_as(joined))
    return joined[:, :-1], joined[:, -1].clone()  # a view would keep all of x alive in the state


def widen(x: Tensor) -> Tensor:
    """A tensor of 16 bits as float32, any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def vector(*shape: int) -> nn.Parameter:
    """A trainable tensor whose value comes from loading or from `fill`."""
    return nn.Parameter(torch.empty(*shape))


def fill(parameter: nn.Parameter, value: Tensor | float) -> None:
    """Give a parameter its initial value, unless loading has given it one."""
    if not getattr(parameter, "_is_hf_initialized", False):
        value = torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)
        with torch.no_grad():
            parameter.copy_(value.expand_as(parameter) if value.dim() == 0 else value)


def factor_product(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply x by a low-rank factor, stored (in, out), in the factor's dtype; back in x's."""
    return (x.to(factor.dtype) @ factor).to(x.dtype)


def run(recurrence: Callable[..., tuple[Tensor, Tensor]], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Call a recurrence out of reach of autocast, which would round the state."""
    kind = inputs[0].device.type
    known = torch.amp.is_autocast_available(kind)
    with torch.autocast(kind, enabled=False) if known else nullcontext():
        return recurrence(*inputs)


class Linear(nn.Linear):
    """x weight^T + bias: the product in the weight's dtype, the result in x's."""

    def __init__(self, n_in: int, n_out: int, bias: bool = False) -> None:
        super().__init__(n_in, n_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., n_in) to (..., n_out)."""
        y = F.linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        return y if self.bias is None else y + self.bias


class LayerNorm(nn.LayerNorm):
    """Layer norm of a float32 tensor by weights of any dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        bias = None if self.bias is None else widen(self.bias)
        return F.layer_norm(x, self.normalized_shape, widen(self.weight), bias, self.eps)


class GroupNorm(nn.GroupNorm):
    """Norm of each head's N values, then a scale and a shift per channel, in float32."""

    def forward(self, y: Tensor) -> Tensor:
        """(B, T, H, N) to (B, T, H N)."""
        batch, tokens = y.shape[:2]
        flat = y.reshape(batch * tokens, -1)
        weight, bias = widen(self.weight), widen(self.bias)
        return F.group_norm(flat, self.num_groups, weight, bias, self.eps).view(batch, tokens, -1)


def ramp(count: int) -> Tensor:
    """(count,) values from 0 to 1."""
    return torch.linspace(0, 1, count, device="cpu")


def zigzag(count: int) -> Tensor:
    """(count,) values 0, 1/2, -1/2, 0, ... that set neighbors apart."""
    return ((torch.arange(count, device="cpu") + 1) % 3 - 1) * 0.5


def check(fine: bool, found: str, expected: str) -> None:
    """Raise a ValueError for a config that describes no model of this file."""
    if not fine:
        raise ValueError(f"this config says {found}; expected {expected}")
