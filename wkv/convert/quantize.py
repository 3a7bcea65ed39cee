"""Quantization of a checkpoint: its matrices are packed to int8 or int4, for fast loading.

Int4 weights are rounded for the inputs that they read on a text (`calibrate`), which halves the
loss and changes neither the size nor the format.

The file contains every matrix except the embedding in the format that the native engine reads, so
loading neither packs nor copies; `wkv.checkpoint.layouts.packed` describes the file. All other
tensors are stored as in the source. The embedding is not packed because a token reads only one row
of it. Without a calibration text, the logits are bit for bit those of packing the source at every
load.

The new file is saved only after it was verified against the matrices in memory, and after the
caller has compared both models and accepted it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wkv.checkpoint.layouts.packed import packed_metadata
from wkv.checkpoint.packing import Format, Packed
from wkv.checkpoint.tensors import PACKED_KEY, STRATEGY_KEY
from wkv.checkpoint.weights import Weights, is_packable
from wkv.convert.calibrate import (
    CALIBRATION,
    Pieces,
    calibration_pieces,
    default_pieces,
    input_moments,
)
from wkv.convert.checkpoint_file import (
    check_vocabulary,
    mapped_strategy,
    new_file,
    write_vocabulary_beside,
)
from wkv.convert.mixture import Limit, Mixture, OnStep, in_memory
from wkv.convert.verify import verify
from wkv.errors import CheckpointError, InputError
from wkv.files import move_into_place, temporary_folder, write_errors
from wkv.inference.describe import Description, describe, identity
from wkv.inference.load import build_model, native_unsupported_reason, strategy_for
from wkv.inference.model import Model
from wkv.models.strategy import Strategy
from wkv.models.strategy.language import PACKED
from wkv.tokenizers import Tokenizer, open_tokenizer

ALIGNMENT = 64
"""Packed matrices start at multiples of this number of bytes in the file: one CPU cache line."""

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.uint8: "U8",
}  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """The result of a quantization.

    Attributes:
        path: the new file.
        n_bytes: its size.
        strategy: the strategy it was made for.
        kept: whether the file was saved.
        calibration_tokens: number of tokens that int4 weights were rounded for.
        int8_matrices: names of the large matrices that a limit made int8 in an int4 file.
    """

    path: Path
    n_bytes: int
    strategy: str
    kept: bool
    calibration_tokens: int
    int8_matrices: tuple[str, ...] = ()


def quantize(
    source: str | Path,
    destination: str | Path,
    *,
    to: str,
    calibrate: str | Path | None = CALIBRATION,
    limit: Limit | None = None,
    overwrite: bool = False,
    tokenizer: str | Path | Tokenizer | None = None,
    accept: Callable[[Model, Model, Path], bool] = lambda before, after, file: True,
    on_step: OnStep = lambda stage, done, total: None,
) -> Quantization:
    """Write a checkpoint as `.safetensors` with its matrices packed.

    Args:
        source: any checkpoint that `wkv.load` reads, with floating-point matrices.
        destination: the file to write; `.safetensors` is added if it is missing.
        to: "int8" or "int4".
        calibrate: a text like those that the model will read, for int4. None: every weight is
            rounded to the nearest value. So it is with the default text too if no tokenizer is
            known.
        limit: how many matrices become int8 in an int4 file; None: no large matrix.
        overwrite: whether to replace an existing file.
        tokenizer: the tokenizer of the models passed to `accept`, as for `wkv.load`.
        accept: called with the original model, the quantized model and its temporary file; if it
            returns False, the file is not saved.
        on_step: called with the name of a stage, the number of finished parts and their total.

    Raises:
        CheckpointError: if the source cannot be read or is quantized, or the new file differs
            from the matrices in memory.
        InputError: if `to` is unknown, the destination exists, the text is too short, or the limit
            is out of range.
        TokenizerError: if a text is given and no tokenizer is known.
    """
    if to not in PACKED:
        raise InputError(f"a checkpoint can be quantized to {' or '.join(PACKED)}, not to {to!r}")
    if limit is not None:
        limit.check(to)
    description = describe(source)
    _check_source(description)
    path = new_file(destination, ".safetensors", description.checkpoint, overwrite=overwrite)
    check_vocabulary(path, description.checkpoint.path, overwrite=overwrite)
    named = None
    if tokenizer is not None:
        named = open_tokenizer(tokenizer, description.config.vocab_size)
    strategy = strategy_for(description, f"cpu {to}")
    before = build_model(describe(source), _strategy_before(description), named)
    pieces = _pieces(before, calibrate) if Format[to] is Format.int4 else []
    with temporary_folder(path) as folder:
        unfinished = folder / path.name
        weights = Weights(description.checkpoint, description.shapes, strategy)
        matrices = _packed(description, weights, pieces, on_step)
        raised: Sequence[str] = ()
        if limit is not None:
            text = [limit.choose_on(before)] if limit.choose_on else pieces
            mixture = Mixture(description, matrices, before, text)
            raised = mixture.names_in_int8(limit, on_step)
            matrices = mixture.candidates.with_int8(raised)
        with write_errors(path):
            _write(unfinished, description, matrices, str(strategy))
            write_vocabulary_beside(unfinished, description)
        expected = build_model(in_memory(description, matrices, str(strategy)), strategy)
        after, _ = verify(expected, unfinished, packed=matrices, tokenizer=named)
        n_bytes = unfinished.stat().st_size
        is_accepted = accept(before, after, unfinished)
        del after  # it maps the file, and some operating systems cannot rename a mapped file
        if is_accepted:
            with write_errors(path):
                move_into_place(unfinished, path)
                write_vocabulary_beside(path, description)
    return Quantization(
        path, n_bytes, str(strategy), is_accepted, sum(map(len, pieces)), tuple(raised)
    )


def _pieces(model: Model, calibrate: str | Path | None) -> Pieces:
    """Return the pieces of the text to calibrate on; none without a text."""
    if calibrate is None:
        return []
    if calibrate == CALIBRATION:
        return default_pieces(model)
    return calibration_pieces(model, Path(calibrate))


def _packed(
    description: Description, weights: Weights, pieces: Pieces, on_step: OnStep
) -> dict[str, Packed]:
    """Return all matrices in the format of the strategy, in the order of the network."""
    names = weights.matrix_names()
    matrices: dict[str, Packed] = {}
    if pieces:
        for moments in input_moments(description, pieces, partial(on_step, "calibrating")):
            for name, H in moments.items():
                matrices[name] = weights.calibrated(name, H)
                on_step("packing", len(matrices), len(names))
    for name in names:
        if name not in matrices:
            matrices[name] = weights.packed(name)
            on_step("packing", len(matrices), len(names))
    return {name: matrices[name] for name in names}


def _check_source(description: Description) -> None:
    """Raise an error if the source is already quantized."""
    checkpoint = description.checkpoint
    if checkpoint.is_packed:
        raise CheckpointError(
            f"{checkpoint.path}: the file is quantized already, for {checkpoint.strategy!r}, and "
            "quantizing it again would lose more precision; use the original"
        )
    if description.scales:
        raise CheckpointError(
            f"{checkpoint.path}: the file has ChatRWKV's int8 matrices, and quantizing them again "
            "would lose more precision; use the original"
        )


def _strategy_before(description: Description) -> Strategy:
    """Return the strategy of the original model: that of `auto`, but always on the CPU."""
    chosen = strategy_for(description, "auto", check=False)
    if any(layer.device.type != "cpu" for layer in chosen.layers):
        chosen = mapped_strategy(description)
    return chosen if native_unsupported_reason(description, chosen) is None else chosen.for_torch()


def _write(
    path: Path, description: Description, packed: Mapping[str, Packed], strategy: str
) -> None:
    """Write the file, with packed matrices first.

    Matrices whose size is a multiple of ALIGNMENT precede the others, so that they stay aligned.
    """
    checkpoint = description.checkpoint
    ordered = sorted(packed, key=lambda name: packed[name].data.nbytes % ALIGNMENT != 0)
    tensors = {name: packed[name].data for name in ordered}
    shapes = description.shapes
    unpacked = {name for name in shapes if not is_packable(name, shapes[name])}
    others = {*unpacked, *description.tuned}
    rest = {name: checkpoint[name].contiguous() for name in checkpoint if name in others}
    tensors |= dict(sorted(rest.items(), key=lambda pair: -pair[1].dtype.itemsize))
    metadata = {
        "format": "pt",
        STRATEGY_KEY: strategy,
        PACKED_KEY: packed_metadata(packed, identity(description)),
    }
    write_safetensors(path, tensors, metadata)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors in the given order; the first starts at a multiple of ALIGNMENT bytes.

    The library's own `save_file` sorts them by dtype and name, and aligns to 8 bytes only.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
