"""RWKV-7 as a step of Triton kernels: eight launches per layer for up to four rows.

    1  norm_mix        add, norm, token shift, six mixes
    2  products        r, k, v and the first factors of the low-rank maps
    3  products        the second factors
    4  wkv7            gates, recurrence, norm per head, bonus
    5  products        output
    6  norm_mix        add, norm, token shift, one mix
    7  products        key, squared ReLU
    8  sparse_value    value

With more rows, the library multiplies all large matrices, in 10 to 12 launches. Matrices of
ChatRWKV's int8 have kernels for up to 32 rows; r, k and v then have a launch of their own.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wkv.gpu import launch
from wkv.gpu.launch import FEW_ROWS, INT8_ROWS, Norm, Residual, TimeMix
from wkv.gpu.packing import (
    NONE,
    SIGMOID,
    SQUARED_RELU,
    TANH,
    Int8Products,
    Int8Value,
    Matrix,
    Products,
    pack_int8,
    pack_int8_value,
    pack_products,
    pad_inputs,
    pad_outputs,
    without_first,
)
from wkv.gpu.rows import PackedRows
from wkv.models.int8 import Int8Linear
from wkv.models.parts import Skeleton

PROJECTIONS = {"r": "receptance", "k": "key", "v": "value"}
"""The large matrices of the first products; their mixes are the first ones, in this order."""

MIXES = "rkvwag"
"""The order of the mixes: planes of the input of the first products."""

LOW_RANK = "wagv"
"""The order of the low-rank maps in the input of the recurrence; layer 0 has no v."""

FUNCTIONS = {"w": TANH, "g": SIGMOID}
"""The functions between the factors of a low-rank map."""


@dataclass(frozen=True)
class Layer:
    """The weights of a layer.

    Attributes:
        ln1, ln2: the norms before time mix and channel mix.
        shares, x_k: (6, D) and (1, D), the token shift weights of the mixes.
        vectors: (8, A), see `wkv.gpu.kernels.wkv7`.
        inner: r, k, v and the first factors of the low-rank maps; only r, k and v if int8.
        first_factors: the first factors alone.
        second_factors: the second factors.
        output, key: one matrix each.
        value: (F, D), transposed.
    """

    ln1: Norm
    ln2: Norm
    shares: Tensor
    x_k: Tensor
    vectors: Tensor
    inner: Products | Int8Products
    first_factors: Products
    second_factors: Products
    output: Products | Int8Products
    key: Products | Int8Products
    value: Tensor | Int8Value


class Rwkv7Step:
    """The packed step of an RWKV-7 network; see `wkv.gpu.rows.Step`.

    Attributes:
        skip_zeros: whether up to FEW_ROWS rows do not read weights of zero inputs. A captured graph
            keeps the value of its capture.
    """

    kernels = "Triton kernels"

    def __init__(self, network: Skeleton) -> None:
        """Pack the weights of a network, layer by layer, on its device.

        The network's matrices become views of the packed ones, so they are stored once, and the
        modules compute the same as before.
        """
        self.config: Any = network.config
        self.skip_zeros = True
        self._embed = network.embed
        self._layers = [_layer(network, layer) for layer in range(self.config.n_layer)]
        self._ln_out = _norm(network, "ln_out")
        self._head = _single(network, "head")
        self.dtype = product_dtype(network)
        self._parts = launch.value_parts(self._head.weights.device)

    def __call__(self, ids: Tensor, rows: PackedRows) -> Tensor:
        """Advance the states; return logits (n, V) float32 after the last row of each sequence."""
        return self._logits(self._body(ids, rows), rows.begin)

    def hidden(self, ids: Tensor, rows: PackedRows) -> Tensor:
        """Advance the states; return the residual stream (R, D) float32 after each row."""
        return self._body(ids, rows).sum()

    def logits(self, X: Tensor) -> Tensor:
        """Convert a residual stream (..., D) to logits (..., V) float32."""
        flat = X.reshape(-1, X.shape[-1]).contiguous()
        each = torch.arange(len(flat) + 1, dtype=torch.int32, device=X.device)
        return self._logits(Residual(flat, flat[None][:0]), each).view(*X.shape[:-1], -1)

    def _body(self, ids: Tensor, rows: PackedRows) -> Residual:
        """Return the residual stream after all layers."""
        X = self._embed(ids).contiguous()
        residual = Residual(X, X[None][:0])
        v_first = torch.empty(len(ids), self.config.dim_att, device=X.device)
        for index, layer in enumerate(self._layers):
            residual, mixed = launch.norm_mix(
                residual, layer.ln1, layer.shares, rows.slots.att_shift, index, rows, self.dtype
            )
            y = launch.wkv7(self._time_mix(layer, mixed, v_first), index, rows, self.dtype)
            residual = Residual(residual.X, self._product(y, layer.output)[None])
            residual, mixed = launch.norm_mix(
                residual, layer.ln2, layer.x_k, rows.slots.ffn_shift, index, rows, self.dtype
            )
            residual = Residual(residual.X, self._channel_mix(layer, mixed[0]))
        return residual

    def _time_mix(self, layer: Layer, mixed: Tensor, v_first: Tensor) -> TimeMix:
        """Compute the products of the mixes (6, R, D)."""
        (_, R, D), A = mixed.shape, v_first.shape[1]
        row_step, plane_step = A, R * A
        if isinstance(layer.inner, Int8Products):
            low = launch.products(mixed, layer.first_factors, R * D)
            if R <= INT8_ROWS:
                rkv, row_step, plane_step = (
                    launch.int8_products(mixed, layer.inner, R * D),
                    3 * A,
                    A,
                )
            else:
                planes = zip(layer.inner.modules, mixed, strict=False)
                rkv = torch.stack([module(x) for module, x in planes])
        elif R <= FEW_ROWS:
            rkv = launch.products(mixed, layer.inner, R * D)
            low, row_step, plane_step = rkv[:, 3 * A :], rkv.stride(0), A
        else:
            large = layer.inner.weights[: 3 * A * D].view(3, A, D)
            rkv = launch.large_product(mixed[:3], large.mT)
            low = launch.products(mixed, layer.first_factors, R * D)
        low = launch.products(low, layer.second_factors, 1)
        eps = self.config.group_norm_eps
        return TimeMix(rkv, row_step, plane_step, low, v_first, layer.vectors, eps)

    def _channel_mix(self, layer: Layer, x: Tensor) -> Tensor:
        """Return value(relu(key(x))^2) in parts (parts, R, D) for x (R, D)."""
        if isinstance(layer.value, Int8Value):
            return self._int8_channel_mix(layer.key, layer.value, x)
        if len(x) <= FEW_ROWS:
            hidden = self._product(x, layer.key)
            return launch.sparse_value(hidden, layer.value, self._parts, skip=self.skip_zeros)
        assert isinstance(layer.key, Products)
        key = launch.large_product(x, layer.key.matrices[0].t())
        hidden, size = launch.squared_relu(key, self.dtype)
        y = launch.large_product(hidden, layer.value)
        return (y if size is None else y.mul_(size))[None]

    def _int8_channel_mix(
        self, key: Products | Int8Products, value: Int8Value, x: Tensor
    ) -> Tensor:
        """Compute `_channel_mix` with int8 matrices."""
        assert isinstance(key, Int8Products)
        if len(x) <= INT8_ROWS:
            hidden = launch.int8_products(x, key)
            return launch.int8_value(hidden, value, self._parts, skip=self.skip_zeros)
        y: Tensor = value.module(torch.relu(key.modules[0](x)).square())
        return y[None]

    def _logits(self, residual: Residual, begin: Tensor) -> Tensor:
        return self._product(
            launch.norm_last(residual, self._ln_out, begin, self.dtype), self._head
        )

    def _product(self, x: Tensor, packed: Products | Int8Products) -> Tensor:
        """Return (R, outputs) float32, the product with a single matrix."""
        if isinstance(packed, Int8Products):
            if len(x) <= INT8_ROWS:
                return launch.int8_products(x, packed)
            y: Tensor = packed.modules[0](x)
            return y
        if len(x) <= FEW_ROWS:
            return launch.products(x, packed)
        return launch.large_product(x, packed.matrices[0].t())


def _layer(network: Skeleton, index: int) -> Layer:
    """Pack the weights of a layer."""
    block = f"blocks.{index}."

    def read(name: str) -> Tensor:
        return network.get_parameter(block + name).detach()

    def replace(name: str, view: Tensor) -> None:
        network.get_parameter(block + name).data = view

    def vectors(*names: str) -> Tensor:
        return torch.stack([read(name).flatten() for name in names])

    modules = [network.get_submodule(f"{block}att.{name}") for name in PROJECTIONS.values()]
    int8 = [module for module in modules if isinstance(module, Int8Linear)]
    names = [] if int8 else [f"att.{name}.weight" for name in PROJECTIONS.values()]
    inner = [Matrix(read(name), plane) for plane, name in enumerate(names)]
    second, at = [], 0
    low = LOW_RANK if index > 0 else LOW_RANK.replace("v", "")
    for name in low:
        function = FUNCTIONS.get(name, NONE)
        factor = pad_outputs(read(f"att.{name}1").t())
        inner.append(Matrix(factor, MIXES.index(name), function))
        second.append(Matrix(pad_inputs(read(f"att.{name}2").t()), at))
        at += len(factor)
    packed, packed_second = pack_products(inner), pack_products(second)
    for name, view in zip(names, packed.matrices, strict=False):
        replace(name, view)
    factors = zip(low, packed.matrices[len(names) :], packed_second.matrices, strict=True)
    for name, first_view, second_view in factors:
        rank = len(read(f"att.{name}2"))
        replace(f"att.{name}1", first_view[:rank].t())
        replace(f"att.{name}2", second_view[:, :rank].t())
    v0 = "att.v0" if index > 0 else "att.w0"  # layer 0 does not use it
    norm_of_heads = ("att.ln_x.weight", "att.ln_x.bias")
    per_channel = ("att.w0", "att.a0", v0, "att.k_k", "att.k_a", "att.r_k", *norm_of_heads)
    return Layer(
        ln1=_norm(network, block + "ln1"),
        ln2=_norm(network, block + "ln2"),
        shares=vectors(*(f"att.x_{name}" for name in MIXES)),
        x_k=vectors("ffn.x_k"),
        vectors=vectors(*per_channel),
        inner=pack_int8(int8) if int8 else packed,
        first_factors=without_first(packed, inner, len(names)),
        second_factors=packed_second,
        output=_single(network, block + "att.output"),
        key=_single(network, block + "ffn.key", SQUARED_RELU),
        value=_value(network, block + "ffn.value"),
    )


def product_dtype(network: Skeleton) -> torch.dtype:
    """Return the dtype to which the inputs of a network's products are rounded."""
    head: Any = network.head
    return head.placement.dtype if isinstance(head, Int8Linear) else head.weight.dtype


def _single(network: Skeleton, name: str, function: int = NONE) -> Products | Int8Products:
    """Pack a matrix that has a launch of its own."""
    module = network.get_submodule(name)
    if isinstance(module, Int8Linear):
        return pack_int8([module], function)
    return pack_products([Matrix(network.get_parameter(f"{name}.weight").detach(), 0, function)])


def _value(network: Skeleton, name: str) -> Tensor | Int8Value:
    """Transpose the value matrix; the module's weight becomes a view of the result."""
    module = network.get_submodule(name)
    if isinstance(module, Int8Linear):
        return pack_int8_value(module)
    weight = network.get_parameter(f"{name}.weight")
    transposed = weight.detach().t().contiguous()
    weight.data = transposed.t()
    return transposed


def _norm(network: Skeleton, name: str) -> Norm:
    parameters = (network.get_parameter(f"{name}.{part}") for part in ("weight", "bias"))
    return Norm(*(parameter.detach() for parameter in parameters))
