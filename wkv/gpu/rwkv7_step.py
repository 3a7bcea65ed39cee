"""RWKV-7 as a step of Triton kernels: eight launches per layer for up to four rows.

    1  norm_mix        add, norm, token shift, six mixes
    2  products        r, k, v and the first factors of the low-rank maps
    3  products        the second factors
    4  wkv7            gates, recurrence, norm per head, bonus
    5  products        output
    6  norm_mix        add, norm, token shift, one mix
    7  products        key, squared ReLU
    8  sparse_value    value

With more rows, the library multiplies all large matrices, in 10 to 12 launches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm

from wkv.checkpoint.weights import Weights
from wkv.gpu import launch
from wkv.gpu.launch import FEW_ROWS, Norm, Residual, TimeMix
from wkv.gpu.packing import (
    NONE,
    SIGMOID,
    SQUARED_RELU,
    TANH,
    Matrix,
    Products,
    pack_products,
    pad_inputs,
    pad_outputs,
    without_first,
)
from wkv.gpu.rows import PackedRows
from wkv.models.rwkv7 import Config

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
        inner: r, k, v and the first factors of the low-rank maps.
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
    inner: Products
    first_factors: Products
    second_factors: Products
    output: Products
    key: Products
    value: Tensor


class Rwkv7Step:
    """The packed step of an RWKV-7 network; see `wkv.gpu.rows.Step`.

    Attributes:
        skip_zeros: whether up to FEW_ROWS rows do not read weights of zero inputs. A captured graph
            keeps the value of its capture.
    """

    kernels = "Triton kernels"

    def __init__(self, config: Config, weights: Weights) -> None:
        placement = weights.strategy.layers[0]
        self.config, self.dtype, self.device = config, placement.dtype, placement.device
        self.skip_zeros = True
        self._embedding = weights.torch_tensor("emb.weight").to(self.device)
        is_folded = "blocks.0.ln0.weight" not in weights.shapes
        self._ln0 = None if is_folded else _norm(weights, "blocks.0.ln0")
        self._layers = [_layer(weights, layer) for layer in range(config.n_layer)]
        self._ln_out = _norm(weights, "ln_out")
        self._head = pack_products([Matrix(weights.torch_tensor("head.weight"))])
        self._parts = launch.value_parts(self.device)

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
        X = embedding(ids, self._embedding).to(torch.float32)
        if self._ln0 is not None:
            X = layer_norm(X, X.shape[1:], self._ln0.weight, self._ln0.bias, launch.LAYER_NORM_EPS)
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
        if R <= FEW_ROWS:
            rkv = launch.products(mixed, layer.inner, R * D)
            low, row_step, plane_step = rkv[:, 3 * A :], rkv.stride(0), A
        else:
            large = layer.inner.weights[: 3 * A * D].view(3, A, D)
            rkv = launch.large_product(mixed[:3], large.mT)
            low = launch.products(mixed, layer.first_factors, R * D)
            row_step, plane_step = A, R * A
        low = launch.products(low, layer.second_factors, 1)
        eps = self.config.group_norm_eps
        return TimeMix(rkv, row_step, plane_step, low, v_first, layer.vectors, eps)

    def _channel_mix(self, layer: Layer, x: Tensor) -> Tensor:
        """Return value(relu(key(x))^2) in parts (parts, R, D) for x (R, D)."""
        if len(x) <= FEW_ROWS:
            hidden = launch.products(x, layer.key)
            return launch.sparse_value(hidden, layer.value, self._parts, skip=self.skip_zeros)
        key = launch.large_product(x, layer.key.matrices[0].t())
        hidden, size = launch.squared_relu(key, self.dtype)
        y = launch.large_product(hidden, layer.value)
        return (y if size is None else y.mul_(size))[None]

    def _logits(self, residual: Residual, begin: Tensor) -> Tensor:
        return self._product(
            launch.norm_last(residual, self._ln_out, begin, self.dtype), self._head
        )

    def _product(self, x: Tensor, packed: Products) -> Tensor:
        """Return (R, outputs) float32, the product with a single matrix."""
        if len(x) <= FEW_ROWS:
            return launch.products(x, packed)
        return launch.large_product(x, packed.matrices[0].t())


def _layer(weights: Weights, index: int) -> Layer:
    """Read and pack the weights of a layer."""
    block = f"blocks.{index}."

    def read(name: str) -> Tensor:
        return weights.torch_tensor(block + name)

    def vectors(*names: str) -> Tensor:
        return torch.stack([read(name).float().flatten() for name in names])

    low = LOW_RANK if index > 0 else LOW_RANK.replace("v", "")
    inner = [
        Matrix(read(f"att.{name}.weight"), MIXES.index(mix)) for mix, name in PROJECTIONS.items()
    ]
    second, at = [], 0
    for name in low:
        function = FUNCTIONS.get(name, NONE)
        factor = pad_outputs(read(f"att.{name}1").t())
        inner.append(Matrix(factor, MIXES.index(name), function))
        second.append(Matrix(pad_inputs(read(f"att.{name}2").t()), at))
        at += len(factor)
    packed = pack_products(inner)
    v0 = "att.v0" if index > 0 else "att.w0"  # layer 0 does not use it
    norm_of_heads = ("att.ln_x.weight", "att.ln_x.bias")
    per_channel = ("att.w0", "att.a0", v0, "att.k_k", "att.k_a", "att.r_k", *norm_of_heads)
    return Layer(
        ln1=_norm(weights, block + "ln1"),
        ln2=_norm(weights, block + "ln2"),
        shares=vectors(*(f"att.x_{name}" for name in MIXES)),
        x_k=vectors("ffn.x_k"),
        vectors=vectors(*per_channel),
        inner=packed,
        first_factors=without_first(packed, inner, len(PROJECTIONS)),
        second_factors=pack_products(second),
        output=pack_products([Matrix(read("att.output.weight"))]),
        key=pack_products([Matrix(read("ffn.key.weight"), 0, SQUARED_RELU)]),
        value=read("ffn.value.weight").t().contiguous(),
    )


def _norm(weights: Weights, name: str) -> Norm:
    return Norm(weights.torch_tensor(f"{name}.weight"), weights.torch_tensor(f"{name}.bias"))
