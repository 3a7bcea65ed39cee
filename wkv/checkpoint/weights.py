"""Prepare the tensors of a checkpoint for the engine that runs the model.

Only `Weights` converts stored tensors. Both engines and `wkv quantize` read tensors with it, so
that they agree on every bit:

    packed            a matrix for the native engine, in one of the formats of `packing`
    vector            a vector for the native engine
    torch_tensor      any tensor for PyTorch, with the dtype and device of its placement
    torch_int8        the parts of one of ChatRWKV's int8 matrices, for PyTorch
"""

import math
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from wkv.checkpoint.error_feedback import quantize_with_feedback
from wkv.checkpoint.packing import (
    Format,
    Packed,
    format_for,
    layout_for,
    pack,
    pack_integers,
    round_like_packed,
)
from wkv.checkpoint.tensors import Checkpoint
from wkv.errors import CheckpointError
from wkv.models.int8 import PARTS, quantize
from wkv.models.parts import is_matrix
from wkv.models.strategy import Placement, Strategy
from wkv.models.strategy.products import factor_for

TABLE = ".s_emb.weight"
"""Suffix of 7a's tables, which contain a matrix for each token. They stay on the CPU."""

SPARSE_INPUTS = "ffn.value.weight"
"""Suffix of the names of matrices whose input is a squared ReLU, which is mostly zero."""

STREAMABLE = re.compile(r".*\.(receptance|key|value|output)\.weight")
"""Matrices that stay in main memory if their layer is streamed; gate and head do not."""

ALIGNMENT = 64
"""The size of a CPU cache line in bytes."""


class Weights:
    """The tensors of a checkpoint, each prepared for a strategy when it is requested.

    Methods take official names. In the result of `of` they take names without its prefix.

    Attributes:
        checkpoint: the opened file, viewed with official names.
        shapes: the shapes of the network's tensors; shapes in the file may have extra axes of
            size 1.
        strategy: the placement of each layer.
    """

    def __init__(
        self, checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], strategy: Strategy
    ) -> None:
        self.checkpoint, self.shapes, self.strategy = checkpoint, shapes, strategy
        self._is_packed = checkpoint.is_packed and checkpoint.strategy == str(strategy)
        self._prefix = ""
        self._sizes: list[int] = []

    def of(self, prefix: str) -> "Weights":
        """Return the weights whose names begin with `prefix`; they share the byte count."""
        part = copy(self)
        part._prefix = self._prefix + prefix
        return part

    @property
    def n_bytes(self) -> int:
        """Bytes of all matrices and vectors that the native engine has requested so far."""
        return sum(self._sizes)

    @property
    def format_name(self) -> str:
        """The format that the strategy assigns to the matrices of this layer."""
        placement = self.strategy.placement_of(self._prefix + "ln1.weight")
        return placement.packed or str(placement.dtype)

    def stored(self) -> Checkpoint:
        """Return the network's tensors by official name, as stored in the file."""
        return replace(self.checkpoint, shapes=self.shapes, read=self._stored)

    def matrix_names(self) -> list[str]:
        """Return the names that `packed` accepts, in the order of the network.

        The embedding is not among them. The factors of a stack have one name each: NAME.0 and so
        on.
        """
        names = []
        for name, shape in self.shapes.items():
            if is_packable(name, shape):
                is_stack = len(shape) > 2
                names += [f"{name}.{i}" for i in range(shape[0])] if is_stack else [name]
        return names

    def matrix(self, name: str) -> Packed:
        """Return the matrix `name`.weight as (outputs, inputs)."""
        return self.packed(f"{name}.weight")

    def factors(self, name: str) -> list[Packed]:
        """Return the low-rank factors that are stored as a stack (n, inputs, outputs)."""
        count = self.shapes[self._prefix + name][0]
        return [self.packed(f"{name}.{number}") for number in range(count)]

    def calibrated(self, name: str, moments: Tensor) -> Packed:
        """Return a matrix in int4, quantized for the inputs that it reads on a text.

        Args:
            name: a name of `matrix_names` that ends in `.weight`.
            moments: the mean of x x^T over its inputs x; see `quantize_with_feedback`.
        """
        weight = self._matrix(name)
        check_finite(f"{self.checkpoint.path}: {name}", weight)
        layout = layout_for(Format.int4, sparse_inputs=name.endswith(SPARSE_INPUTS))
        integers = quantize_with_feedback(weight, moments)
        return pack_integers(*integers, Format.int4, layout, weight.shape[1])

    def packed(self, name: str) -> Packed:
        """Return a matrix as (outputs, inputs) in the format of its placement.

        It is mapped from the file if it was packed for this strategy, and packed now otherwise.

        Args:
            name: a name of `matrix_names`. Low-rank factors, whose names do not end in `.weight`,
                are stored as (inputs, outputs) and transposed.
        """
        name = self._prefix + name
        placement = self.strategy.placement_of(name)
        packed = self.checkpoint.read_packed(name)
        if packed is not None and self._is_packed:
            format = packed.format
        else:
            format = format_for(name, placement.packed, placement.dtype)
        layout = layout_for(format, sparse_inputs=name.endswith(SPARSE_INPUTS))
        if packed is None or (packed.format, packed.layout) != (format, layout):
            weight = self._matrix(name)
            if format.is_integer:  # all values are read, so checking them costs little
                check_finite(f"{self.checkpoint.path}: {name}", weight)
            packed = pack(weight, format, layout)
        self._sizes.append(packed.data.nbytes)
        return replace(packed, name=name)

    def vector(self, name: str) -> Tensor:
        """Return a vector, flattened and converted to float32."""
        vector = self._vector(self._prefix + name).flatten().contiguous()
        self._sizes.append(vector.nbytes)
        return vector

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of a norm."""
        return self.vector(f"{name}.weight"), self.vector(f"{name}.bias")

    def table(self, name: str) -> tuple[Tensor, torch.dtype]:
        """Return the embedding table `name`.weight and the dtype for looked-up rows.

        The table keeps the dtype of the file and stays memory-mapped: a token reads one row.
        """
        name = f"{self._prefix}{name}.weight"
        return self._stored(name), self.strategy.placement_of(name).dtype

    def torch_tensor(self, name: str) -> Tensor:
        """Return a tensor with its official shape, and the dtype and device of its placement.

        Matrices get the placement's dtype, vectors float32. A tensor that needs no conversion stays
        memory-mapped.
        """
        shape, placement = self.shapes[name], self.strategy.placement_of(name)
        if not is_matrix(name, shape):
            return _aligned(self._vector(name).to(placement.device))
        tensor = self._stored(name)
        if placement.packed and not self._is_rounded(name) and is_packable(name, shape):
            tensor = round_like_packed(tensor, name, placement.packed)
        if not name.endswith(".weight"):
            return factor_for(tensor.to(placement.device, placement.dtype), placement)
        if name.endswith(TABLE):
            return tensor.to(placement.dtype)
        if placement.streamed and STREAMABLE.fullmatch(name):
            return _pinned(tensor.to(placement.dtype), placement)
        return tensor.to(placement.device, placement.dtype)

    def torch_int8(self, module: str) -> dict[str, Tensor]:
        """Return `weight` and the four scales of an int8 matrix.

        They are read from the file, or quantized from its floats.
        """
        placement = self.strategy.placement_of(f"{module}.weight")
        if f"{module}.weight_mx" in self.checkpoint:
            names = [f"weight_{part}" for part in PARTS]
            scales = {name: self.checkpoint[f"{module}.{name}"].float() for name in names}
            parts = {name: _aligned(scale) for name, scale in scales.items()}
            parts["weight"] = self.checkpoint[f"{module}.weight"]
        else:
            parts = quantize(self.checkpoint[f"{module}.weight"])
        is_streamed = placement.streamed and STREAMABLE.fullmatch(f"{module}.weight")
        return {
            name: _pinned(tensor, placement)
            if is_streamed and name == "weight"
            else tensor.to(placement.device)
            for name, tensor in parts.items()
        }

    def _is_rounded(self, name: str) -> bool:
        """Return whether a matrix was packed for the same strategy; an adapter may change some."""
        parts = (name, f"{name}.0")
        packed = (self.checkpoint.read_packed(part) for part in parts)
        return self._is_packed and any(part is not None for part in packed)

    def _stored(self, name: str) -> Tensor:
        return self.checkpoint[name].reshape(self.shapes[name])

    def _vector(self, name: str) -> Tensor:
        """Return a vector as float32, after checking its values."""
        vector = self._stored(name).to(torch.float32)
        check_finite(f"{self.checkpoint.path}: {name}", vector)
        return vector

    def _matrix(self, name: str) -> Tensor:
        """Return a floating-point matrix as (outputs, inputs)."""
        if name in self.shapes:
            weight = self._stored(name)
            return weight if name.endswith(".weight") else weight.t()
        stack, _, number = name.rpartition(".")
        return self._stored(stack)[int(number)].t()


def is_packable(name: str, shape: Sequence[int]) -> bool:
    """Check whether a strategy such as `cpu int8` packs a tensor: a matrix except the embedding."""
    return is_matrix(name, shape) and not name.startswith("emb.")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise a CheckpointError if a tensor contains NaN or infinity, with which no text is possible.

    Args:
        name: the name of the tensor, for the message.
        tensor: of any dtype.
    """
    if math.isfinite(tensor.sum(dtype=torch.float32).item()):  # the usual case, and fast
        return
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        raise CheckpointError(
            f"{name}: {wrong} of {tensor.numel()} values are NaN or infinite, so the model cannot "
            "predict anything; fetch the file again or, if you trained it, take an earlier "
            "checkpoint"
        )


def _aligned(vector: Tensor) -> Tensor:
    """Return a vector at an aligned address; it is copied if it is not aligned in the file.

    At other addresses PyTorch adds numbers in another order, so that the last bits of the results
    would depend on the file.
    """
    return vector.clone() if vector.data_ptr() % ALIGNMENT else vector


def _pinned(tensor: Tensor, placement: Placement) -> Tensor:
    """Copy a tensor for a CUDA device to page-locked memory, from which transfers are faster."""
    if placement.device.type != "cuda":
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError:  # too much memory is page-locked already, which makes this only slower
        return tensor
