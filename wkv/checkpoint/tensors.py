"""A file of tensors, opened: names, shapes and dtypes at hand, values when they are asked for."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint.packing import Packed

EXPECTED = "expected a .pth or .safetensors checkpoint, or a Hugging Face directory"

NOTES = ("_strategy", "_version", "_rescale_layer", "_wkv_strategy", "_wkv_packed")
"""Names under which a converted file says what it is; the first three are ChatRWKV's."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def nothing_packed(_: str) -> None:
    """What files that were not packed have of each name."""


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a file, by name; each is mapped when it is asked for.

    Attributes:
        path: the file that was opened.
        layout: "pth" or "safetensors".
        shapes: name to shape of every tensor.
        dtypes: name to dtype of every tensor.
        notes: what a file that was made for a strategy says of itself, by name.
        strategy: the one it was made for; None if it was not.
        shards: the files of a checkpoint in several; none if `path` is all there is.
        packed: gives a matrix as it was packed for the native engine, or None if it was not.
        identity: of the model that a packed file was made from, which is the file's too.
    """

    path: Path
    layout: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)
    strategy: str | None = None
    shards: tuple[Path, ...] = ()
    packed: Callable[[str], Packed | None] = nothing_packed
    identity: str | None = None

    @property
    def is_packed(self) -> bool:
        """Whether it holds matrices as the native engine reads them."""
        return self.packed is not nothing_packed

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name."""
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the file."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.shapes)


def first_sentence(error: object) -> str:
    """The first sentence of a message; libraries go on with advice that does not fit here."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")[:160]
