"""Pack the matrices of independent products for one launch of a kernel.

The matrices lie one after the other in a flat tensor. A table tells each program which block of
outputs it computes:

    plane      of the input, in units of x_plane numbers
    first      the first weight of the block
    inputs     number of inputs, a multiple of 16
    column     of the first output
    outputs    number of outputs of the block
    function   that is applied to the sums: NONE, TANH, SIGMOID, or SQUARED_RELU
    vectors    the first of the matrix's per-input numbers; 0 for matrices without them
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from wkv.models.int8 import Int8Linear

FIELDS = 7
"""Numbers in a row of a table."""

NONE, TANH, SIGMOID, SQUARED_RELU = 0, 1, 2, 3

ALIGNMENT = 16
"""The number of inputs of a matrix, and its first weight, are multiples of it."""

DOT_OUTPUTS = 16
"""Outputs of a block for matrix instructions."""

BLOCKS = ((256, 16), (512, 8), (1024, 4))
"""Inputs and outputs of a block for a few rows: as many inputs as a matrix has, if possible.

A long matrix needs many blocks with few outputs each, because a GPU reads fastest with many blocks.
"""


@dataclass(frozen=True)
class Matrix:
    """A matrix of a launch.

    Attributes:
        weight: (outputs, inputs), inputs a multiple of 16.
        plane: the plane of the input that it is multiplied by.
        function: the function of the sums.
    """

    weight: Tensor
    plane: int = 0
    function: int = NONE


@dataclass(frozen=True)
class Products:
    """The products of a launch.

    Attributes:
        weights: flat, in the dtype of the weights.
        block: number of inputs and of outputs of a block in `table`.
        table: (blocks, FIELDS) int32, for a few rows.
        dot_table: the same with blocks of DOT_OUTPUTS outputs, for many rows.
        matrices: views of `weights`, (outputs, inputs) each.
        outputs: the sum of the numbers of outputs.
    """

    weights: Tensor
    block: tuple[int, int]
    table: Tensor
    dot_table: Tensor
    matrices: tuple[Tensor, ...]
    outputs: int


def pack_products(matrices: Sequence[Matrix]) -> Products:
    """Write the table of matrices, and copy them into a flat tensor, unless it is a single one."""
    parts = [matrix.weight.flatten() for matrix in matrices]
    weights = torch.cat(parts) if len(parts) > 1 else parts[0]
    views, end = [], 0
    for matrix in matrices:
        begin, end = end, end + matrix.weight.numel()
        views.append(weights[begin:end].view_as(matrix.weight))
    return _products(weights, matrices, tuple(views), first=0)


def without_first(packed: Products, matrices: Sequence[Matrix], count: int) -> Products:
    """Return the products of all but the first matrices, with columns from 0; weights are shared.

    Args:
        packed: the products of `matrices`.
        matrices: the matrices that were packed.
        count: the number of matrices to leave out.
    """
    first = sum(matrix.weight.numel() for matrix in matrices[:count])
    return _products(packed.weights, matrices[count:], packed.matrices[count:], first)


def _products(
    weights: Tensor, matrices: Sequence[Matrix], views: tuple[Tensor, ...], first: int
) -> Products:
    inputs = max(matrix.weight.shape[1] for matrix in matrices)
    block = next((block for block in BLOCKS if inputs <= block[0]), BLOCKS[-1])
    return Products(
        weights,
        block,
        _table(matrices, first, block[1]).to(weights.device),
        _table(matrices, first, DOT_OUTPUTS).to(weights.device),
        views,
        sum(len(matrix.weight) for matrix in matrices),
    )


def _table(matrices: Sequence[Matrix], first: int, block: int) -> Tensor:
    """Return the table of all blocks of `block` outputs, (blocks, FIELDS) int32."""
    table, column, at = [], 0, 0
    for matrix in matrices:
        outputs, inputs = matrix.weight.shape
        for n in range(0, outputs, block):
            count = min(block, outputs - n)
            begin = first + n * inputs
            table.append((matrix.plane, begin, inputs, column + n, count, matrix.function, at))
        first += outputs * inputs
        column += outputs
        at += inputs
    return torch.tensor(table, dtype=torch.int32)


@dataclass(frozen=True)
class Int8Products:
    """The products of a launch with ChatRWKV's int8 matrices; see `wkv.models.int8`.

    Attributes:
        weights: flat int8, matrices (outputs, inputs) one after the other.
        block: number of inputs and of outputs of a block in `table`.
        table, dot_table: as in `Products`.
        inputs: (2, sum of inputs) float32, ry and my of all matrices.
        outputs: (2, sum of outputs) float32, rx and mx.
        modules: the modules, which multiply many rows; their weights are views of `weights`.
    """

    weights: Tensor
    block: tuple[int, int]
    table: Tensor
    dot_table: Tensor
    inputs: Tensor
    outputs: Tensor
    modules: tuple[Int8Linear, ...]


@dataclass(frozen=True)
class Int8Value:
    """An int8 matrix whose inputs are mostly zero.

    Attributes:
        weights: (inputs, outputs) int8, transposed.
        dot_table, inputs, outputs, module: as in `Int8Products`, of a single matrix.
    """

    weights: Tensor
    dot_table: Tensor
    inputs: Tensor
    outputs: Tensor
    module: Int8Linear


def pack_int8_value(module: Int8Linear) -> Int8Value:
    """Transpose the weights of a module, which become a view of the transposed ones."""
    weights = module.weight.t().contiguous()
    module.weight = weights.t()
    table = _table([Matrix(module.weight)], 0, DOT_OUTPUTS).to(weights.device)
    return Int8Value(
        weights, table, scales_of_inputs([module]), scales_of_outputs([module]), module
    )


INT8_BLOCK = (512, 8)
"""Inputs and outputs of a block."""


def pack_int8(modules: Sequence[Int8Linear], function: int = NONE) -> Int8Products:
    """Copy int8 matrices into a flat tensor; module i reads plane i of the input."""
    matrices = [Matrix(module.weight, plane, function) for plane, module in enumerate(modules)]
    weights = torch.cat([matrix.weight.flatten() for matrix in matrices])
    end = 0
    for module in modules:
        begin, end = end, end + module.weight.numel()
        module.weight = weights[begin:end].view_as(module.weight)
    return Int8Products(
        weights,
        INT8_BLOCK,
        _table(matrices, 0, INT8_BLOCK[1]).to(weights.device),
        _table(matrices, 0, DOT_OUTPUTS).to(weights.device),
        scales_of_inputs(modules),
        scales_of_outputs(modules),
        tuple(modules),
    )


def scales_of_inputs(modules: Sequence[Int8Linear]) -> Tensor:
    """Return ry and my of all modules, (2, sum of inputs)."""
    ry, my = (torch.cat([getattr(m, f"weight_{p}") for m in modules]) for p in ("ry", "my"))
    return torch.stack([ry, my])


def scales_of_outputs(modules: Sequence[Int8Linear]) -> Tensor:
    """Return rx and mx of all modules, (2, sum of outputs)."""
    rx, mx = (torch.cat([getattr(m, f"weight_{p}") for m in modules]) for p in ("rx", "mx"))
    return torch.stack([rx, mx])


def pad_outputs(weight: Tensor) -> Tensor:
    """Add outputs of zeros to a matrix (outputs, inputs), up to a multiple of ALIGNMENT."""
    return pad(weight, (0, 0, 0, -len(weight) % ALIGNMENT))


def pad_inputs(weight: Tensor) -> Tensor:
    """Add inputs with weight zero to a matrix (outputs, inputs), up to a multiple of ALIGNMENT."""
    return pad(weight, (0, -weight.shape[1] % ALIGNMENT))
