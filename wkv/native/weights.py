"""The weights of a model as the native engine reads them, each in the format its strategy names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.packing import Packed, format_for, layout_for, pack
from wkv.strategy import Strategy


class Tensors(Mapping[str, Tensor]):
    """Tensors by name; each is read, or unpacked, when it is asked for."""

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
    """Gives matrices and vectors by their official names, and counts their bytes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shapes: Mapping[str, tuple[int, ...]],
        strategy: Strategy,
    ) -> None:
        """`shapes` are those of the network, which a file's equal but for axes of size 1."""
        self._checkpoint, self._shapes, self._strategy = checkpoint, shapes, strategy
        self._prefix = ""
        self._sizes: list[int] = []

    def of(self, prefix: str) -> "Weights":
        """The same, with names that begin with `prefix`; bytes are counted together."""
        part = copy(self)
        part._prefix = self._prefix + prefix
        return part

    @property
    def n_bytes(self) -> int:
        """Bytes of all that was asked for so far."""
        return sum(self._sizes)

    @property
    def form(self) -> str:
        """The form that the matrices of a layer are wanted in; not of a file's other matrices."""
        placement = self._strategy.of(self._prefix + "ln1.weight")
        return placement.packed or str(placement.dtype)

    def tensors(self) -> "Tensors":
        """All tensors of the network by their official names, as they are in the file."""
        return Tensors(self._tensor, list(self._shapes))

    def matrix(self, name: str, *, sparse_inputs: bool = False) -> Packed:
        """A matrix (outputs, inputs) of the name `name`.weight."""
        whole = f"{self._prefix}{name}.weight"
        return self._made(whole, lambda: self._tensor(whole), sparse_inputs)

    def factor(self, name: str) -> Packed:
        """A low-rank factor, stored (inputs, outputs)."""
        whole = self._prefix + name
        return self._made(whole, lambda: self._tensor(whole).t())

    def factors(self, name: str) -> list[Packed]:
        """Several factors, stored (n, inputs, outputs); each has a number behind its name."""
        whole = self._prefix + name
        return [
            self._made(f"{whole}.{number}", partial(self._one, whole, number))
            for number in range(self._shapes[whole][0])
        ]

    def vector(self, name: str) -> Tensor:
        """A vector, flat, in float32."""
        vector = self._tensor(self._prefix + name).to(torch.float32).flatten().contiguous()
        self._sizes.append(vector.nbytes)
        return vector

    def table(self, name: str) -> tuple[Tensor, torch.dtype]:
        """A matrix of the name `name`.weight to look rows up in, and the dtype of what is found.

        It stays in the file's dtype, so mapped: of a token one row is read.
        """
        name = f"{self._prefix}{name}.weight"
        return self._tensor(name), self._strategy.of(name).dtype

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a norm."""
        return self.vector(f"{name}.weight"), self.vector(f"{name}.bias")

    def _tensor(self, name: str) -> Tensor:
        return self._checkpoint[name].reshape(self._shapes[name])

    def _one(self, name: str, number: int) -> Tensor:
        return self._tensor(name)[number].t()

    def _made(self, name: str, weight: Callable[[], Tensor], sparse_inputs: bool = False) -> Packed:
        """A matrix as the file has it packed, if it was for this strategy; or packed now."""
        made = self._checkpoint.packed(name)
        placement = self._strategy.of(name)
        format = format_for(name, placement.packed, placement.dtype)
        if made is not None and self._checkpoint.strategy == str(self._strategy):
            format = made.format
        layout = layout_for(format, sparse_inputs=sparse_inputs)
        if made is None or (made.format, made.layout) != (format, layout):
            made = pack(weight(), format, layout)
        self._sizes.append(made.data.nbytes)
        return made
