"""View a checkpoint under other names, shapes and values, converting each tensor on access."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.errors import CheckpointError

Transform = Callable[[Tensor], Tensor]
"""A function that converts a stored tensor to the official layout."""


def unchanged(tensor: Tensor) -> Tensor:
    """Return the tensor itself."""
    return tensor


@dataclass(frozen=True)
class View:
    """The description of one tensor of a view.

    Attributes:
        source: name of the tensor in the file.
        shape: official shape, to which the result of `transform` is reshaped.
        transform: converts the stored values to official ones.
        dtype: dtype of the result; None if it is that of the file.
    """

    source: str
    shape: tuple[int, ...]
    transform: Transform = unchanged
    dtype: torch.dtype | None = None


def view_of(checkpoint: Checkpoint, views: Mapping[str, View]) -> Checkpoint:
    """Return a checkpoint whose tensors are the views, by official name."""

    def read(name: str) -> Tensor:
        view = views[name]
        tensor = checkpoint[view.source]
        try:
            return view.transform(tensor).reshape(view.shape)
        except (RuntimeError, IndexError) as error:
            if "memory" in str(error).lower():
                raise
            raise CheckpointError(
                f"{checkpoint.path}: {view.source} has shape {tuple(tensor.shape)}, from which "
                f"{name} of shape {view.shape} cannot be made; the file is damaged, fetch it again"
            ) from error

    return replace(
        checkpoint,
        shapes={name: view.shape for name, view in views.items()},
        dtypes={name: view.dtype or checkpoint.dtypes[view.source] for name, view in views.items()},
        read=read,
    )
