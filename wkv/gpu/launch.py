"""Launch the Triton kernels: allocate results, and choose grids and block sizes.

Importing this module needs Triton.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from wkv.gpu.kernels import int8 as int8_matrices
from wkv.gpu.kernels import norm_mix as norms
from wkv.gpu.kernels import products as matrices
from wkv.gpu.kernels import sparse_value as channel_mix
from wkv.gpu.kernels import wkv7 as recurrence
from wkv.gpu.packing import DOT_OUTPUTS, Int8Products, Int8Value, Products
from wkv.gpu.rows import PackedRows
from wkv.models.strategy.products import matmul

FEW_ROWS = 4
"""Largest number of rows whose products are limited by reading the weights once."""

INT8_ROWS = 32
"""Largest number of rows for which int8 weights are converted in the kernels."""

LAYER_NORM_EPS = 1e-5

VALUE_PARTS, RDNA_VALUE_PARTS = 8, 4
"""Parts of the value product. AMD's gfx11 and gfx12 have too few registers for the sum of 8."""

OPTIONS = {"enable_fp_fusion": True}
"""Triton 3.10 no longer fuses multiplications and additions unless asked."""


@dataclass(frozen=True)
class Norm:
    """Weight and bias of a layer norm, (D,) float32 each."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Residual:
    """The residual stream: X (R, D) plus the sum of delta (parts, R, D), which a kernel adds."""

    X: Tensor
    delta: Tensor

    def sum(self) -> Tensor:
        """Return the residual stream (R, D) float32."""
        return self.X + self.delta.sum(0)


def norm_mix(
    residual: Residual,
    norm: Norm,
    shares: Tensor,
    shift: Tensor,
    layer: int,
    rows: PackedRows,
    dtype: torch.dtype,
) -> tuple[Residual, Tensor]:
    """Add delta to X; return it, and the mixes (n, R, D) of the normed and shifted rows.

    Args:
        residual: the residual stream.
        norm: the layer norm.
        shares: (n, D) float32, the weights of the row before in each mix.
        shift: (slots, L, D), the shift states; they are read and written.
        layer: the index of the layer.
        rows: the packed rows.
        dtype: dtype of the mixes.
    """
    R, D = residual.X.shape
    X = torch.empty_like(residual.X)
    mixed = torch.empty(len(shares), R, D, dtype=dtype, device=X.device)
    wide = triton.next_power_of_2(D)
    block = wide if R >= 32 else min(wide, 512)
    norms.norm_mix[(R, triton.cdiv(D, block))](
        residual.X,
        residual.delta,
        X,
        norm.weight,
        norm.bias,
        shares,
        shift,
        mixed,
        rows.sequence,
        rows.begin,
        rows.read,
        rows.write,
        D,
        shift.stride(0),
        layer * D,
        R,
        LAYER_NORM_EPS,
        PARTS=len(residual.delta),
        MIXES=len(shares),
        WIDE=wide,
        BLOCK=block,
        num_warps=8 if block >= 2048 else 4,
        **OPTIONS,
    )
    return Residual(X, residual.delta[:0]), mixed


def norm_last(residual: Residual, norm: Norm, begin: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the normed last row of each sequence, (sequences, D)."""
    R, D = residual.X.shape
    normed = torch.empty(len(begin) - 1, D, dtype=dtype, device=begin.device)
    norms.norm_last[(len(normed),)](
        residual.X,
        residual.delta,
        norm.weight,
        norm.bias,
        normed,
        begin,
        D,
        R,
        LAYER_NORM_EPS,
        PARTS=len(residual.delta),
        WIDE=triton.next_power_of_2(D),
        **OPTIONS,
    )
    return normed


def products(x: Tensor, packed: Products, x_plane: int = 0) -> Tensor:
    """Return (R, outputs) float32: all products of a launch, side by side.

    Args:
        x: (R, K) or (planes, R, K), in the dtype of the weights or float32.
        packed: the matrices.
        x_plane: distance of the planes of x.
    """
    R = x.shape[-2]
    y = torch.empty(R, packed.outputs, dtype=torch.float32, device=x.device)
    strides = (x_plane, x.stride(-2), y.stride(0))
    if R <= FEW_ROWS:
        inputs, outputs = packed.block
        matrices.products[(len(packed.table),)](
            x,
            packed.weights,
            y,
            packed.table,
            *strides,
            R,
            ROWS=triton.next_power_of_2(R),
            BLOCK_N=outputs,
            BLOCK_K=inputs,
            **OPTIONS,
        )
        return y
    block = 16 if R <= 16 else 32
    matrices.dot_products[(len(packed.dot_table), triton.cdiv(R, block))](
        x,
        packed.weights,
        y,
        packed.dot_table,
        *strides,
        R,
        ROWS=block,
        BLOCK_N=DOT_OUTPUTS,
        BLOCK_K=64 if packed.weights.itemsize == 2 else 32,
        AS_FLOAT32=x.device.type == "cpu",
        **OPTIONS,
    )
    return y


def int8_products(x: Tensor, packed: Int8Products, x_plane: int = 0) -> Tensor:
    """Return `products` of int8 matrices, for up to INT8_ROWS rows."""
    if x.shape[-2] > FEW_ROWS:
        return _int8_dot(x, packed, x_plane, transposed=False)
    R, N = x.shape[-2], packed.outputs.shape[1]
    y = torch.empty(R, N, dtype=torch.float32, device=x.device)
    inputs, outputs = packed.block
    int8_matrices.int8_products[(len(packed.table),)](
        x,
        packed.weights,
        packed.inputs,
        packed.outputs,
        y,
        packed.table,
        x_plane,
        x.stride(-2),
        y.stride(0),
        R,
        packed.inputs.shape[1],
        N,
        ROWS=triton.next_power_of_2(R),
        BLOCK_N=outputs,
        BLOCK_K=inputs,
        **OPTIONS,
    )
    return y


def int8_value(hidden: Tensor, value: Int8Value, parts: int, *, skip: bool) -> Tensor:
    """Return the product of hidden (R, F) float32 in parts; a single one above FEW_ROWS rows."""
    (R, F), D = hidden.shape, value.weights.shape[1]
    if R > FEW_ROWS:
        return _int8_dot(hidden, value, 0, transposed=True)[None]
    delta = torch.empty(parts, R, D, dtype=torch.float32, device=hidden.device)
    int8_matrices.int8_sparse_value[(triton.cdiv(D, 128), parts)](
        hidden,
        value.weights,
        value.inputs,
        value.outputs,
        delta,
        D,
        F,
        R,
        SKIP=skip,
        ROWS=triton.next_power_of_2(R),
        TILES=triton.cdiv(F, parts * 32),
        BLOCK_F=32,
        BLOCK_D=128,
        LANES=16,
        **OPTIONS,
    )
    return delta


def _int8_dot(
    x: Tensor, packed: Int8Products | Int8Value, x_plane: int, *, transposed: bool
) -> Tensor:
    """Return (R, outputs) float32, with matrix instructions."""
    R, N = x.shape[-2], packed.outputs.shape[1]
    y = torch.empty(R, N, dtype=torch.float32, device=x.device)
    block = 16 if R <= 16 else 32
    int8_matrices.int8_dot_products[(len(packed.dot_table), triton.cdiv(R, block))](
        x,
        packed.weights,
        packed.inputs,
        packed.outputs,
        y,
        packed.dot_table,
        x_plane,
        x.stride(-2),
        y.stride(0),
        R,
        packed.inputs.shape[1],
        N,
        TRANSPOSED=transposed,
        PRECISION="tf32" if has_tf32(x.device) else "ieee",
        ROWS=block,
        BLOCK_N=DOT_OUTPUTS,
        BLOCK_K=64,
        **OPTIONS,
    )
    return y


def has_tf32(device: torch.device) -> bool:
    """Return whether a GPU multiplies float32 matrices with the precision of fp16."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def large_product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x weight in float32, by the library; for more than FEW_ROWS rows.

    On a CPU, in Triton's interpreter, the sums are float32 as on a GPU.

    Args:
        x: (R, K) or (planes, R, K) in the dtype of the weight.
        weight: (K, outputs) or (planes, K, outputs).
    """
    if x.device.type == "cpu":
        return x.float() @ weight.float()
    return matmul(x, weight)


@dataclass(frozen=True)
class TimeMix:
    """The inputs of the recurrence of a layer.

    Attributes:
        rkv: receptance, key and value, float32; row_step and plane_step are the distances of rows
            and of r, k and v.
        low: (R, 3 A or 4 A) float32, the outputs of the low-rank maps.
        v_first: (R, A) float32, the values of layer 0.
        vectors: (8, A) float32.
        eps: eps of the norm per head.
    """

    rkv: Tensor
    row_step: int
    plane_step: int
    low: Tensor
    v_first: Tensor
    vectors: Tensor
    eps: float


def wkv7(mix: TimeMix, layer: int, rows: PackedRows, dtype: torch.dtype) -> Tensor:
    """Advance the recurrent states of a layer; return the input (R, A) of its output matrix."""
    state = rows.slots.wkv
    H, N = state.shape[2:4]
    R, A = mix.v_first.shape
    block = N if rows.is_decode else min(N, 32)
    gated = torch.empty(R, A, dtype=dtype, device=state.device)
    y = gated if block == N else torch.empty_like(mix.v_first)
    strides = (mix.row_step, mix.plane_step, mix.low.stride(0))
    recurrence.wkv7[(len(rows.counts), H, N // block)](
        mix.rkv,
        mix.low,
        mix.v_first,
        mix.vectors,
        state,
        y,
        rows.begin,
        rows.read,
        rows.write,
        A,
        *strides,
        state.stride(0),
        layer * A * N,
        mix.eps,
        FIRST=layer == 0,
        N=N,
        BV=block,
        num_warps=4 if block * N >= 4096 else 2,
        **OPTIONS,
    )
    if block == N:
        return gated
    recurrence.norm_gate[(R, H)](
        y,
        mix.rkv,
        mix.low,
        mix.v_first,
        mix.vectors,
        gated,
        A,
        *strides,
        mix.eps,
        FIRST=layer == 0,
        N=N,
        num_warps=1,
        **OPTIONS,
    )
    return gated


def sparse_value(hidden: Tensor, weight: Tensor, parts: int, *, skip: bool) -> Tensor:
    """Return hidden weight in parts, (parts, R, D) float32.

    Args:
        hidden: (R, F) float32 with R <= FEW_ROWS, after the squared ReLU.
        weight: (F, D), the transposed value matrix.
        parts: number of parts.
        skip: whether weights of inputs that are zero in all rows are not read.
    """
    (R, F), D = hidden.shape, weight.shape[1]
    block_f = 64 if weight.itemsize == 2 else 32
    delta = torch.empty(parts, R, D, dtype=torch.float32, device=hidden.device)
    channel_mix.sparse_value[(triton.cdiv(D, 128), parts)](
        hidden,
        weight,
        delta,
        D,
        F,
        R,
        SKIP=skip,
        ROWS=triton.next_power_of_2(R),
        TILES=triton.cdiv(F, parts * block_f),
        BLOCK_F=block_f,
        BLOCK_D=128,
        LANES=8,
        **OPTIONS,
    )
    return delta


def squared_relu(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return relu(x)^2 / size in a dtype, and size (R, 1), or None if it is 1 (except in fp16)."""
    R, F = x.shape
    hidden = torch.empty(R, F, dtype=dtype, device=x.device)
    size = torch.empty(R, 1, dtype=torch.float32, device=x.device)
    scaled = dtype == torch.float16
    channel_mix.squared_relu[(R,)](x, hidden, size, F, SCALED=scaled, BLOCK=1024, **OPTIONS)
    return hidden, size if scaled else None


def value_parts(device: torch.device) -> int:
    """Return the number of parts of `sparse_value` for a device."""
    if device.type != "cuda" or torch.version.hip is None:
        return VALUE_PARTS
    properties: Any = torch.cuda.get_device_properties(device)
    return (
        RDNA_VALUE_PARTS if properties.gcnArchName.startswith(("gfx11", "gfx12")) else VALUE_PARTS
    )
