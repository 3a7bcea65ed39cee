"""Files that ChatRWKV's convert_model wrote for one strategy, seen as official checkpoints.

In them matrices are transposed, ln0 is folded into the embedding, decays and bonuses have the form
that the recurrence uses, int8 matrices come with `_mx`, `_my`, `_rx`, `_ry`, and fp16 strategies
have divided what is added to the residual stream of block l by 2^(l // Q). All is turned back
except the folding: there is no ln0 in the view. Generations 4 to 6.

Source: the `rwkv` package, model.py, `convert_and_save_and_exit`, `_version` 0.7.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.view import Transform, View, as_it_is, viewed
from wkv.errors import CheckpointError
from wkv.models.int8 import OFFSET, SCALE

OLDEST = 0.7

MATRIX = re.compile(r".*(key|value|receptance|gate|output|head)\.weight")
RESCALED = re.compile(r"blocks\.(\d+)\.(att\.output|ffn\.value)\.weight(_mx|_my|_rx)?")

TINY = 1e-38
"""A decay below this is 0 in float32, which has no logarithm."""


def is_converted(checkpoint: Checkpoint) -> bool:
    """Whether convert_model wrote the file."""
    return "_strategy" in checkpoint.notes


def to_official(checkpoint: Checkpoint) -> Checkpoint:
    """The file as an official checkpoint without ln0; `strategy` is the one it was made for.

    Raises:
        CheckpointError: for a file of an older version of convert_model, or a damaged one.
    """
    notes = checkpoint.notes
    try:
        version, every = float(notes.get("_version", 0)), int(notes.get("_rescale_layer", 0))
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path}: the version or rescale note of convert_model is damaged ({notes})"
        ) from error
    if version < OLDEST:
        raise CheckpointError(
            f"{checkpoint.path}: convert_model {version:g} wrote this file, and its form differs "
            f"from {OLDEST} and later; convert the original .pth again"
        )
    views = _views(checkpoint.shapes, every)
    for name, view in views.items():
        if checkpoint.dtypes[view.source] == torch.uint8:
            views[name] = replace(view, dtype=torch.int8)
    return replace(viewed(checkpoint, views), strategy=notes["_strategy"])


def _views(shapes: Mapping[str, tuple[int, ...]], every: int) -> dict[str, View]:
    """Official name and view of each tensor; `every` is the number of blocks between halvings."""
    has_heads = any(".att.ln_x." in name for name in shapes)
    gated = any(".att.gate." in name for name in shapes)
    views = {}
    for source, shape in shapes.items():
        name = source
        turn: Transform = as_it_is
        if MATRIX.fullmatch(source) and len(shape) == 2:
            shape, turn = shape[::-1], _transposed
        elif SCALE.fullmatch(source):
            shape, turn = (max(shape),), Tensor.float
        elif source.endswith(".time_decay"):
            shape, turn = _decay(shape, has_heads, "blocks.0.att.time_maa_x" in shapes)
        elif source.endswith(".time_first") and has_heads:
            shape = _per_head(shape)
            if gated:  # the file has no name for `time_faaaa`
                name = source.replace("time_first", "time_faaaa")
            else:
                turn = torch.log
        rescaled = RESCALED.fullmatch(source)
        if rescaled and every > 0 and int(rescaled[1]) >= every:
            turn = _times(2.0 ** (int(rescaled[1]) // every), turn)
        views[name] = View(source, shape, turn)
    return views


def _decay(
    shape: tuple[int, ...], has_heads: bool, is_six: bool
) -> tuple[tuple[int, ...], Transform]:
    """The shape of `time_decay` and how it is turned back, by generation."""
    if is_six:
        return (1, 1, shape[0] * shape[1]), as_it_is
    if has_heads:
        return _per_head(shape), lambda decay: torch.log(-torch.log(decay.clamp(min=TINY)))
    return shape, lambda log_decay: torch.log(-log_decay)


def _per_head(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(H, 1, 1) or (H, N, 1) as (H,) or (H, N)."""
    return shape[:1] if shape[1:2] in ((), (1,)) else shape[:2]


def _transposed(tensor: Tensor) -> Tensor:
    """A matrix (out, in); bytes less 128."""
    if tensor.dtype == torch.uint8:
        return (tensor.to(torch.int16) - OFFSET).to(torch.int8).t()
    return tensor.t()


def _times(factor: float, turn: Transform) -> Transform:
    """`turn`, then a factor; bytes are left to their scales."""
    return lambda tensor: turn(tensor) if tensor.dtype == torch.uint8 else turn(tensor) * factor
