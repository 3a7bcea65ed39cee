"""The opened checkpoint: names, shapes and dtypes are in memory, values are read on access."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint.packing import Packed
from wkv.errors import CheckpointError

EXPECTED = "expected a .pth, .safetensors or .gguf checkpoint, or a Hugging Face directory"

CHATRWKV_KEY, STRATEGY_KEY, PACKED_KEY = "_strategy", "_wkv_strategy", "_wkv_packed"
"""Metadata keys of files that ChatRWKV converted, that wkv converted, and that wkv quantized."""

METADATA_KEYS = (CHATRWKV_KEY, "_version", "_rescale_layer", STRATEGY_KEY, PACKED_KEY)
"""All metadata keys that describe how a file was converted; the first three are ChatRWKV's."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""The floating point dtypes that a checkpoint may have."""


MEMORY = re.compile(r"not enough memory|cannot allocate memory|can't allocate memory", re.I)
"""Texts by which PyTorch and safetensors report that memory ran out."""


def nothing_packed(_: str) -> None:
    """Return None: a checkpoint without packed tensors has no packed matrix of any name."""


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Tensor]):
    """A mapping from names to tensors, each of which is memory-mapped on access.

    Attributes:
        path: the file that was opened.
        layout: "pth" or "safetensors" for a file as it is; a view of another layout has that
            layout's name, such as "hub", "fla" or "packed".
        shapes: name to shape of every tensor.
        dtypes: name to dtype of every tensor.
        read: returns the tensor of a name in `shapes`.
        metadata: values of those METADATA_KEYS that the file contains.
        strategy: the strategy that the file was converted for, or None.
        shards: the files of a sharded checkpoint; empty if `path` is the only file.
        read_packed: returns the matrix of a name as packed for the native engine, or None if the
            matrix is not packed.
        identity: identity of the model that a packed file was made from, which the packed model
            shares; None for other files.
        stored_types: names of the number formats of the matrices of a GGUF file, such as "Q4_K".
        auto_dtypes: the dtypes that decide the strategy `auto`; None: those of all matrices.
    """

    path: Path
    layout: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    strategy: str | None = None
    shards: tuple[Path, ...] = ()
    read_packed: Callable[[str], Packed | None] = nothing_packed
    identity: str | None = None
    stored_types: tuple[str, ...] = ()
    auto_dtypes: frozenset[torch.dtype] | None = None

    @property
    def is_packed(self) -> bool:
        """Whether the file contains matrices that are packed for the native engine."""
        return self.read_packed is not nothing_packed

    def __getitem__(self, name: str) -> Tensor:
        """Return the tensor of a name."""
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in the order of the file."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.shapes)


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that a library could not open: out of memory, or damaged."""
    reason = first_sentence(error)
    if isinstance(error, MemoryError) or MEMORY.search(str(error)):
        return CheckpointError(
            f"{path}: there is not enough memory to open this file of "
            f"{path.stat().st_size / 2**30:.1f} GiB ({reason}); close other programs, raise the "
            "limit of this process (ulimit -v), or use a smaller model"
        )
    return CheckpointError(
        f"{path}: the file is truncated or damaged ({reason}); {EXPECTED}; fetch the file again"
    )


def first_sentence(error: object) -> str:
    """Return the first sentence of an error message, without the advice that libraries add."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")[:160]
