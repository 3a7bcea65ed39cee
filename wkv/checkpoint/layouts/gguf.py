"""The layout of GGUF files of RWKV-6 and 7: llama.cpp's tensor names, shapes and values.

`wkv convert` writes files with the same rules.
Sources: llama.cpp, conversion/rwkv.py, src/models/rwkv6.cpp and rwkv7.cpp; the keys and names of
the gguf package.
"""

import re
from collections.abc import Iterator
from functools import partial

from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.rules import FLAT, TRANSPOSED, Conversion, Rule
from wkv.checkpoint.layouts.view import View, view_of
from wkv.errors import CheckpointError

GENERATIONS = {"rwkv6": "6", "rwkv7": "7"}
"""Generation of each architecture in `general.architecture`."""

STACKED = Conversion(
    lambda shape: (shape[0], shape[2], shape[1]), *2 * (lambda t: t.transpose(1, 2),)
)
"""Shape (5, M, D) in official files, (5, D, M) in GGUF."""

_SKELETON = (
    Rule("emb.weight", "token_embd.weight"),
    Rule("blocks.0.ln0.*", "token_embd_norm.*"),
    Rule("ln_out.*", "output_norm.*"),
    Rule("head.weight", "output.weight"),
    Rule("blocks.N.ln1.*", "blk.N.attn_norm.*"),
    Rule("blocks.N.ln2.*", "blk.N.attn_norm_2.*"),
    Rule("blocks.N.att.ln_x.*", "blk.N.time_mix_ln.*"),
    *(
        Rule(f"blocks.N.att.{part}.weight", f"blk.N.time_mix_{part}.weight")
        for part in ("receptance", "key", "value", "gate", "output")
    ),
    *(
        Rule(f"blocks.N.ffn.{part}.weight", f"blk.N.channel_mix_{part}.weight")
        for part in ("key", "value", "receptance")
    ),
)

GGUF6 = (
    *_SKELETON,
    Rule("blocks.N.att.time_maa_w1", "blk.N.time_mix_w1.weight", TRANSPOSED),
    Rule("blocks.N.att.time_maa_w2", "blk.N.time_mix_w2.weight", STACKED),
    Rule("blocks.N.att.time_decay", "blk.N.time_mix_decay.weight", FLAT),
    Rule("blocks.N.att.time_decay_w1", "blk.N.time_mix_decay_w1.weight", TRANSPOSED),
    Rule("blocks.N.att.time_decay_w2", "blk.N.time_mix_decay_w2.weight", TRANSPOSED),
    Rule("blocks.N.att.time_faaaa", "blk.N.time_mix_first.weight"),
    Rule("blocks.N.att.time_maa_*", "blk.N.time_mix_lerp_*.weight", FLAT),
    Rule("blocks.N.ffn.time_maa_*", "blk.N.channel_mix_lerp_*.weight", FLAT),
)
"""The shifts of the time mix except x have names of their own only in files of 2024."""

GGUF7 = (
    *_SKELETON,
    *(
        Rule(f"blocks.N.att.{low_rank}{part}", f"blk.N.time_mix_{low_rank}{part}.weight", form)
        for low_rank in "wavg"
        for part, form in enumerate((FLAT, TRANSPOSED, TRANSPOSED))
    ),
    *(
        Rule(f"blocks.N.att.{name}", f"blk.N.time_mix_{name}.weight", FLAT)
        for name in ("k_k", "k_a", "r_k")
    ),
    Rule("blocks.N.ffn.x_k", "blk.N.channel_mix_lerp_k.weight", FLAT),
)

RULES = {"6": GGUF6, "7": GGUF7}

SHIFTS = {"6": ("time_maa_", "wkvrg"), "7": ("x_", "rwkvag")}
"""Prefix and suffixes of the token shifts that llama.cpp stacks into one tensor, in its order."""

FUSED = re.compile(r"blk\.(\d+)\.time_mix_lerp_fused\.weight")

NOT_USED = re.compile(r"blk\.0\.time_mix_v[012]\.weight")
"""Tensors that llama.cpp requires, in the shapes of a0 to a2, but does not use."""

BONUS = re.compile(r"blocks\.\d+\.att\.r_k")
"""The bonus of RWKV-7, which is (H, N) in official files and flat in GGUF."""

RESCALED = re.compile(r"blocks\.(\d+)\.(att\.output|ffn\.value)\.weight")
"""Matrices that some files of RWKV-6 contain divided by 2^(layer div n), for half precision."""

RESCALE, HEAD_SIZE = "rescale_every_n_layers", "wkv.head_size"
"""Fields of the file, after the architecture's name."""


def gguf_to_official(checkpoint: Checkpoint) -> Checkpoint:
    """View a GGUF file as an official checkpoint.

    Raises:
        CheckpointError: if the model is not an RWKV-6 or 7, or its fields do not fit its tensors.
    """
    architecture = checkpoint.metadata.get("general.architecture", "none")
    generation = GENERATIONS.get(architecture)
    if generation is None:
        known = " or ".join(GENERATIONS)
        raise CheckpointError(
            f"{checkpoint.path}: this GGUF file contains a model of the architecture "
            f"{architecture[:40]!r}, expected {known}; run other models with llama.cpp"
        )
    head_size = _number(checkpoint, architecture, HEAD_SIZE)
    rescale = _number(checkpoint, architecture, RESCALE) if generation == "6" else 0
    views: dict[str, View] = {}
    for name, shape in checkpoint.shapes.items():
        for official, view in _views(generation, name, shape):
            if BONUS.fullmatch(official) and head_size and shape[-1] % head_size == 0:
                view = View(name, (shape[-1] // head_size, head_size))
            found = RESCALED.fullmatch(official)
            if found is not None and rescale:
                view = View(
                    name, view.shape, partial(_multiplied, factor=2 ** (int(found[1]) // rescale))
                )
            views[official] = view
    return view_of(checkpoint, views)


def official_tensors(generation: str, name: str, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the official names and values of one tensor of a GGUF file: none, one or several."""
    for official, view in _views(generation, name, tuple(values.shape)):
        yield official, view.transform(values)


def _views(generation: str, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, View]]:
    """Yield the official names of one tensor and how each is made of it; the name if unknown."""
    fused = FUSED.fullmatch(name)
    if fused is not None:
        prefix, letters = SHIFTS[generation]
        for row, letter in enumerate(letters):
            view = View(name, (1, 1, shape[-1]), partial(_row, number=row))
            yield f"blocks.{fused[1]}.att.{prefix}{letter}", view
        return
    if generation == "7" and NOT_USED.fullmatch(name):
        return
    for rule in RULES[generation]:
        official = rule.to_official(name)
        if official is not None:
            conversion = rule.conversion
            yield official, View(name, conversion.shape(shape), conversion.transform)
            return
    yield name, View(name, shape)


def _row(stack: Tensor, number: int) -> Tensor:
    return stack[number]


def _multiplied(weight: Tensor, factor: int) -> Tensor:
    return weight * factor


def _number(checkpoint: Checkpoint, architecture: str, key: str) -> int:
    """Return a field that is a whole number, or 0 if the file does not have it.

    Raises:
        CheckpointError: if it is something else.
    """
    text = checkpoint.metadata.get(f"{architecture}.{key}", "0")
    if not text.isdecimal() or int(text) > 2**20:
        raise CheckpointError(
            f"{checkpoint.path}: the field {architecture}.{key} is {text[:40]!r}, expected a small "
            "whole number; the file is damaged, download it again"
        )
    return int(text)
