"""Frozen matrices in int8 or int4, which are unpacked for each product.

The gradient flows through a product to its inputs, but not to the weight.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from wkv.adapters.changes import Change
from wkv.checkpoint.packing import Format, Layout, Packed, pack, unpack
from wkv.models.parts import Linear, Skeleton
from wkv.models.strategy.products import Product


class _PackedProduct(torch.autograd.Function):
    """The product x W^T with a packed W, which is unpacked again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Packed) -> Tensor:
        ctx.packed = packed
        return linear(x, unpacked(packed, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ unpacked(ctx.packed, gradient.dtype), None


def unpacked(packed: Packed, dtype: torch.dtype) -> Tensor:
    """Return a packed matrix (out, in) in a dtype."""
    return unpack(packed).to(dtype)


def packed_product(packed: Packed, change: Change | None = None) -> Product:
    """Return the product with a packed matrix, and with a change of it if there is one."""

    def product(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        y: Tensor = _PackedProduct.apply(x, packed)  # type: ignore[no-untyped-call]
        y = y if dtype is None else y.to(dtype)
        if change is None:
            return y
        needs_weight = getattr(change, "magnitude", None) is not None
        whole = unpacked(packed, torch.float32) if needs_weight else weight
        return change.product(x, whole, y).to(y.dtype)

    return product


def pack_matrices(network: Skeleton, names: Sequence[str], format: str) -> dict[str, Packed]:
    """Pack matrices of a network, whose weights are then empty.

    Args:
        network: the network; it is changed in place.
        names: names of Linear modules, such as blocks.0.att.key.
        format: "int8" or "int4".

    Returns:
        Name of the module to packed matrix.
    """
    found = {}
    for name in names:
        module = network.get_submodule(name)
        assert isinstance(module, Linear)
        found[name] = pack(module.weight.detach().float(), Format[format], Layout.blocks)
        module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)
        module.product = packed_product(found[name])
    return found
