"""Detect the layout of a checkpoint and view it with official tensor names, shapes and values."""

import re
from collections.abc import Callable
from dataclasses import replace

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.gguf import LAYOUT as GGUF
from wkv.checkpoint.layouts.chatrwkv import chatrwkv_to_official
from wkv.checkpoint.layouts.config_file import read_config_file, with_config_file
from wkv.checkpoint.layouts.fla import FLA7, fla6_to_official, fla7_to_official
from wkv.checkpoint.layouts.gguf import gguf_to_official
from wkv.checkpoint.layouts.hub import HUB, OFFICIAL_2026
from wkv.checkpoint.layouts.packed import unpacked_view
from wkv.checkpoint.layouts.rules import foreign_tensors, official_view
from wkv.checkpoint.layouts.rwkvcpp import rwkvcpp_to_official
from wkv.checkpoint.layouts.view import View, view_of
from wkv.checkpoint.layouts.web_rwkv import is_web_rwkv, web_rwkv_to_official
from wkv.checkpoint.rwkvcpp import LAYOUT as RWKVCPP
from wkv.checkpoint.tensors import CHATRWKV_KEY, PACKED_KEY, STRATEGY_KEY
from wkv.errors import CheckpointError

__all__ = [
    "FLA7",
    "FOLDER_LAYOUTS",
    "HUB",
    "OFFICIAL_2026",
    "foreign_tensors",
    "is_folded",
    "official",
    "read_config_file",
    "with_config_file",
]

FOLDER_LAYOUTS = ("hub", "official", "fla")
"""The layouts of Hugging Face directories, which have a config.json."""

EMBEDDING, HEAD = "emb.weight", "head.weight"

LAYOUTS: tuple[tuple[str, str, Callable[[Checkpoint], Checkpoint]], ...] = (
    (r"rwkv\.blocks\.0\..*", "hub", lambda checkpoint: official_view(checkpoint, HUB)),
    (r"rwkv7\.blocks\.0\..*", "official", lambda file: official_view(file, OFFICIAL_2026)),
    (r"model\.layers\.0\.attn\.(x_r|x_x)", "fla", fla7_to_official),
    (r"model\.layers\.0\.attn\.x_bias", "fla", fla6_to_official),
)
"""A tensor name that identifies a layout, the layout's name, and the function that converts it."""

WRAPPER = re.compile(
    r"(?<![^.])(module|_forward_module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
    r"|base_model\.model)\."
)
"""The names of DataParallel, DeepSpeed, torch.compile, FSDP, checkpointing and peft."""

LIGHTNING = re.compile(r"^model\.(?=(emb|blocks|ln_out|head)\.)")
"""The prefix `model.` of PyTorch Lightning and of own training loops, before official names."""


def official(checkpoint: Checkpoint) -> Checkpoint:
    """Return a view of a checkpoint with official names and values.

    A checkpoint that is official already, or of an unknown layout, is returned as it is.

    Raises:
        CheckpointError: if the layout is known and the file is damaged.
    """
    try:
        return _official(checkpoint)
    except (IndexError, ValueError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the shapes of its tensors do not fit their names; the file is "
            "damaged, fetch it again"
        ) from error


def _official(checkpoint: Checkpoint) -> Checkpoint:
    if CHATRWKV_KEY in checkpoint.metadata:
        return chatrwkv_to_official(checkpoint)
    if PACKED_KEY in checkpoint.metadata:
        return unpacked_view(checkpoint)
    if checkpoint.layout == GGUF:
        return gguf_to_official(checkpoint)
    if checkpoint.layout == RWKVCPP:
        return rwkvcpp_to_official(checkpoint)
    checkpoint = replace(checkpoint, strategy=checkpoint.metadata.get(STRATEGY_KEY))
    checkpoint = _without_wrappers(checkpoint)
    if is_web_rwkv(checkpoint):
        return replace(web_rwkv_to_official(checkpoint), layout="web-rwkv")
    for pattern, layout, to_view in LAYOUTS:
        if any(re.fullmatch(pattern, name) for name in checkpoint):
            return _with_head(replace(to_view(checkpoint), layout=layout))
    return checkpoint


def _without_wrappers(checkpoint: Checkpoint) -> Checkpoint:
    """View a checkpoint without the names of wrappers; others are returned as they are.

    Raises:
        CheckpointError: if two tensors have the same name without wrappers.
    """
    views: dict[str, View] = {}
    for name, shape in checkpoint.shapes.items():
        plain = LIGHTNING.sub("", WRAPPER.sub("", name))
        if plain in views:
            raise CheckpointError(
                f"{checkpoint.path}: {views[plain].source} and {name} are both the tensor {plain}; "
                "save one model alone"
            )
        views[plain] = View(name, shape)
    if all(name == view.source for name, view in views.items()):
        return checkpoint
    return view_of(checkpoint, views)


def _with_head(checkpoint: Checkpoint) -> Checkpoint:
    """Add the head of a model whose config.json says that it is the embedding (tied weights)."""
    if HEAD in checkpoint or EMBEDDING not in checkpoint:
        return checkpoint
    if not read_config_file(checkpoint.path).get("tie_word_embeddings"):
        return checkpoint
    views = {name: View(name, shape) for name, shape in checkpoint.shapes.items()}
    return view_of(checkpoint, {**views, HEAD: View(EMBEDDING, checkpoint.shapes[EMBEDDING])})


def is_folded(checkpoint: Checkpoint) -> bool:
    """Check whether ln0 is already applied to the embedding and no longer part of the file."""
    return checkpoint.strategy is not None and "blocks.0.ln0.weight" not in checkpoint
