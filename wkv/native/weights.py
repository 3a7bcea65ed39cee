"""The weights of a model in the formats and layouts that the native engine reads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.packing import Packed, format_for, layout_for, pack
from wkv.models.strategy import Strategy


class Tensors(Mapping[str, Tensor]):
    """Tensors by name; each is read or unpacked on access."""

    def __init__(self, read: Callable[[str], Tensor], names: Sequence[str]) -> None:
        self._read, self._names = read, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Weights:
    """Provides matrices and vectors by their official names, and counts their bytes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shapes: Mapping[str, tuple[int, ...]],
        strategy: Strategy,
    ) -> None:
        """`shapes` are those of the network; shapes in the file may have extra axes of size 1."""
        self._checkpoint, self._shapes, self._strategy = checkpoint, shapes, strategy
        self._prefix = ""
        self._sizes: list[int] = []

    def of(self, prefix: str) -> "Weights":
        """Return the weights whose names begin with `prefix`; they share the byte count."""
        part = copy(self)
        part._prefix = self._prefix + prefix
        return part

    @property
    def n_bytes(self) -> int:
        """Bytes of all weights that have been requested so far."""
        return sum(self._sizes)

    @property
    def format_name(self) -> str:
        """The format that the strategy assigns to the matrices of this layer."""
        placement = self._strategy.of(self._prefix + "ln1.weight")
        return placement.packed or str(placement.dtype)

    def tensors(self) -> "Tensors":
        """Return all tensors of the network by their official names, as stored in the file."""
        return Tensors(self._tensor, list(self._shapes))

    def matrix(self, name: str, *, sparse_inputs: bool = False) -> Packed:
        """Return the matrix (outputs, inputs) named `name`.weight."""
        full = f"{self._prefix}{name}.weight"
        return self._packed(full, lambda: self._tensor(full), sparse_inputs)

    def factor(self, name: str) -> Packed:
        """Return a low-rank factor that is stored as (inputs, outputs)."""
        full = self._prefix + name
        return self._packed(full, lambda: self._tensor(full).t())

    def factors(self, name: str) -> list[Packed]:
        """Return the low-rank factors that are stored as (n, inputs, outputs)."""
        full = self._prefix + name
        return [
            self._packed(f"{full}.{number}", partial(self._factor, full, number))
            for number in range(self._shapes[full][0])
        ]

    def vector(self, name: str) -> Tensor:
        """Return a vector, flattened and converted to float32."""
        vector = self._tensor(self._prefix + name).to(torch.float32).flatten().contiguous()
        self._sizes.append(vector.nbytes)
        return vector

    def table(self, name: str) -> tuple[Tensor, torch.dtype]:
        """Return the embedding table `name`.weight and the dtype for looked-up rows.

        The table keeps the dtype of the file and stays memory-mapped: a token reads one row.
        """
        name = f"{self._prefix}{name}.weight"
        return self._tensor(name), self._strategy.of(name).dtype

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of a norm."""
        return self.vector(f"{name}.weight"), self.vector(f"{name}.bias")

    def _tensor(self, name: str) -> Tensor:
        return self._checkpoint[name].reshape(self._shapes[name])

    def _factor(self, name: str, number: int) -> Tensor:
        return self._tensor(name)[number].t()

    def _packed(
        self, name: str, weight: Callable[[], Tensor], sparse_inputs: bool = False
    ) -> Packed:
        """Return a packed matrix, from the file if it was packed for this strategy."""
        packed = self._checkpoint.packed(name)
        placement = self._strategy.of(name)
        format = format_for(name, placement.packed, placement.dtype)
        if packed is not None and self._checkpoint.strategy == str(self._strategy):
            format = packed.format
        layout = layout_for(format, sparse_inputs=sparse_inputs)
        if packed is None or (packed.format, packed.layout) != (format, layout):
            packed = pack(weight(), format, layout)
        self._sizes.append(packed.data.nbytes)
        return packed
