"""View files that ChatRWKV's convert_model wrote for one strategy as official checkpoints.

In these files matrices are transposed, ln0 is folded into the embedding, decays and bonuses are
transformed to the values that the recurrence uses, int8 matrices come with `_mx`, `_my`, `_rx` and
`_ry`, and for fp16 strategies the outputs that block l adds to the residual stream are divided by
2^(l // Q). The view inverts all of this except the folding, so it has no ln0. Generations 4 to 6.

Source: the `rwkv` package, model.py, `convert_and_save_and_exit`, `_version` 0.7.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.view import Transform, View, unchanged, view_of
from wkv.checkpoint.tensors import CHATRWKV_KEY
from wkv.errors import CheckpointError
from wkv.models.int8 import OFFSET, SCALE

OLDEST = 0.7
"""The oldest version of convert_model whose files can be read."""

MATRIX = re.compile(r".*(key|value|receptance|gate|output|head)\.weight")
RESCALED = re.compile(r"blocks\.(\d+)\.(att\.output|ffn\.value)\.weight(_mx|_my|_rx)?")

TINY = 1e-38
"""Lower limit of a decay before its logarithm is taken, because log 0 is not finite."""


def chatrwkv_to_official(checkpoint: Checkpoint) -> Checkpoint:
    """View the file as an official checkpoint without ln0.

    The `strategy` of the view is the one that the file was converted for.

    Raises:
        CheckpointError: if the file is damaged, or an older version of convert_model wrote it.
    """
    metadata = checkpoint.metadata
    try:
        version = float(metadata.get("_version", 0))
        blocks_per_halving = int(metadata.get("_rescale_layer", 0))
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path}: the metadata of convert_model is damaged ({metadata}), expected "
            "numbers as _version and _rescale_layer; convert the original .pth again"
        ) from error
    if version < OLDEST:
        raise CheckpointError(
            f"{checkpoint.path}: convert_model {version:g} wrote this file, and its format differs "
            f"from {OLDEST} and later; convert the original .pth again"
        )
    views = _views(checkpoint.shapes, blocks_per_halving)
    for name, view in views.items():
        if checkpoint.dtypes[view.source] == torch.uint8:
            views[name] = replace(view, dtype=torch.int8)
    return replace(view_of(checkpoint, views), strategy=metadata[CHATRWKV_KEY])


def _views(shapes: Mapping[str, tuple[int, ...]], blocks_per_halving: int) -> dict[str, View]:
    """Return the view of each tensor by its official name.

    `blocks_per_halving` is Q in the formula 2^(l // Q), or 0 if nothing was divided.
    """
    has_heads = any(".att.ln_x." in name for name in shapes)
    gated = any(".att.gate." in name for name in shapes)
    views = {}
    for source, shape in shapes.items():
        name = source
        transform: Transform = unchanged
        if MATRIX.fullmatch(source) and len(shape) == 2:
            shape, transform = shape[::-1], _transposed
        elif SCALE.fullmatch(source):
            shape, transform = (max(shape),), Tensor.float
        elif source.endswith(".time_decay"):
            shape, transform = _decay(shape, has_heads, "blocks.0.att.time_maa_x" in shapes)
        elif source.endswith(".time_first") and has_heads:
            shape = _per_head(shape)
            if gated:  # convert_model writes `time_faaaa` under the name `time_first`
                name = source.replace("time_first", "time_faaaa")
            else:
                transform = torch.log
        rescaled = RESCALED.fullmatch(source)
        if rescaled and blocks_per_halving > 0 and int(rescaled[1]) >= blocks_per_halving:
            transform = _times(2.0 ** (int(rescaled[1]) // blocks_per_halving), transform)
        views[name] = View(source, shape, transform)
    return views


def _decay(
    shape: tuple[int, ...], has_heads: bool, is_six: bool
) -> tuple[tuple[int, ...], Transform]:
    """Return the official shape and the transform of `time_decay` in each generation."""
    if is_six:
        return (1, 1, shape[0] * shape[1]), unchanged
    if has_heads:
        return _per_head(shape), lambda decay: torch.log(-torch.log(decay.clamp(min=TINY)))
    return shape, lambda log_decay: torch.log(-log_decay)


def _per_head(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape (H, 1, 1) or (H, N, 1) as (H,) or (H, N)."""
    return shape[:1] if shape[1:2] in ((), (1,)) else shape[:2]


def _transposed(tensor: Tensor) -> Tensor:
    """Transpose a matrix to (out, in); subtract 128 from uint8 to obtain int8."""
    if tensor.dtype == torch.uint8:
        return (tensor.to(torch.int16) - OFFSET).to(torch.int8).t()
    return tensor.t()


def _times(factor: float, transform: Transform) -> Transform:
    """Return `transform` followed by a factor. uint8 is not multiplied, but its scales are."""

    def scaled(tensor: Tensor) -> Tensor:
        result = transform(tensor)
        return result if tensor.dtype == torch.uint8 else result * factor

    return scaled
