"""View a checkpoint with an adapter merged into its tensors, which are computed on access."""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from wkv.adapters.open import Adapter
from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts import is_folded
from wkv.checkpoint.packing import Packed
from wkv.checkpoint.tensors import nothing_packed
from wkv.errors import CheckpointError

EMBEDDING = ("emb.weight", "blocks.0.ln0.weight", "blocks.0.ln0.bias")


def adapted_view(base: Checkpoint, adapter: Adapter, identity: str) -> Checkpoint:
    """View an official checkpoint as merged with an adapter.

    Changed tensors are float32, so that they are rounded once, to the dtype in which an engine uses
    them. `dtypes` keeps the dtypes of the base, so that the same strategy is chosen for both.
    Changed matrices of packed files are unpacked, and packed again when they are loaded.

    Args:
        base: the checkpoint.
        adapter: an adapter that was opened for its shapes.
        identity: the identity of the base model.

    Raises:
        CheckpointError: if the base stores a changed tensor in a form that cannot be changed.
    """
    for name in adapter.changes:
        if base.dtypes[name] == torch.int8 or (is_folded(base) and name in EMBEDDING):
            raise CheckpointError(
                f"{base.path}: {name} was converted for the strategy {base.strategy}, so that no "
                "adapter can change it; use the original checkpoint"
            )

    def read(name: str) -> Tensor:
        change = adapter.changes.get(name)
        return base[name] if change is None else change.merged(base[name].float())

    def read_packed(name: str) -> Packed | None:
        return None if name in adapter.changes else base.read_packed(name)

    return replace(
        base,
        read=read,
        read_packed=read_packed if base.is_packed else nothing_packed,
        identity=adapted_identity(identity, adapter),
    )


def adapted_identity(identity: str, adapter: Adapter) -> str:
    """Return the identity of a model with an adapter, which differs from that of the model."""
    return hashlib.sha256(f"{identity} {adapter.digest}".encode()).hexdigest()[:16]
