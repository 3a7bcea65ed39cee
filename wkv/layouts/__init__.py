"""Other people's names and forms of the tensors, seen as the official ones."""

from dataclasses import replace

from wkv.checkpoint import Checkpoint
from wkv.layouts.chatrwkv import is_converted, to_official

__all__ = ["is_folded", "official"]


def official(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint as it is, or a view of it with official names and values.

    Raises:
        CheckpointError: if its form is known and broken.
    """
    if is_converted(checkpoint):
        return to_official(checkpoint)
    return replace(checkpoint, strategy=checkpoint.notes.get("_wkv_strategy"))


def is_folded(checkpoint: Checkpoint) -> bool:
    """Whether the norm ln0 is already applied to the embedding, and no longer in the file."""
    return checkpoint.strategy is not None and "blocks.0.ln0.weight" not in checkpoint
