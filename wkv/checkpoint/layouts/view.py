"""A checkpoint seen through other names and forms; nothing is read until it is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint

Transform = Callable[[Tensor], Tensor]
"""What makes official values of a file's."""


def as_it_is(tensor: Tensor) -> Tensor:
    """The same."""
    return tensor


@dataclass(frozen=True)
class View:
    """One tensor of a view: its name in the file, its shape, how its values are turned.

    The result of `turn` is reshaped; `dtype` is the file's unless it is given.
    """

    source: str
    shape: tuple[int, ...]
    turn: Transform = as_it_is
    dtype: torch.dtype | None = None


def viewed(checkpoint: Checkpoint, views: Mapping[str, View]) -> Checkpoint:
    """A checkpoint whose tensors are views, by official name."""

    def read(name: str) -> Tensor:
        view = views[name]
        return view.turn(checkpoint[view.source]).reshape(view.shape)

    return replace(
        checkpoint,
        shapes={name: view.shape for name, view in views.items()},
        dtypes={name: view.dtype or checkpoint.dtypes[view.source] for name, view in views.items()},
        read=read,
    )
