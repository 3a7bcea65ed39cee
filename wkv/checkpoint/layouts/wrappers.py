"""Names that libraries for training put in front of tensor names, or between their parts."""

import re

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.view import View, view_of
from wkv.errors import CheckpointError

WRAPPER = re.compile(
    r"(?<![^.])(module|_forward_module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
    r"|base_model\.model)\."
)
"""The names of DataParallel, DeepSpeed, torch.compile, FSDP, checkpointing and peft."""

LIGHTNING = re.compile(r"model\.(?=(emb|blocks|ln_out|head)\.)")
"""The prefix `model.` of PyTorch Lightning and of own training loops, before official names."""


def without_wrappers(checkpoint: Checkpoint) -> Checkpoint:
    """View a checkpoint without the names of wrappers; others are returned as they are.

    Raises:
        CheckpointError: if two tensors have the same name without wrappers.
    """
    views: dict[str, View] = {}
    for name, shape in checkpoint.shapes.items():
        plain = LIGHTNING.sub("", WRAPPER.sub("", name), count=1) if "." in name else name
        if plain in views:
            raise CheckpointError(
                f"{checkpoint.path}: {views[plain].source} and {name} are both the tensor {plain}; "
                "save one model alone"
            )
        views[plain] = View(name, shape)
    if all(name == view.source for name, view in views.items()):
        return checkpoint
    return view_of(checkpoint, views)
