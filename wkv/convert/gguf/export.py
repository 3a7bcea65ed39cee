"""Export of an RWKV-6 or 7 checkpoint to a GGUF file for llama.cpp, verified before it is saved."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wkv.checkpoint.layouts.gguf import RULES
from wkv.convert.checkpoint_file import new_file
from wkv.convert.checks import check_publishable
from wkv.convert.gguf.target import KINDS, gguf_tensors, kind_of, metadata
from wkv.convert.gguf.verify import check_file, compare_with_llama
from wkv.errors import InputError, MissingExtraError, TokenizerError, install_command
from wkv.files import move_into_place, temporary_folder, write_errors
from wkv.inference.describe import Description, describe
from wkv.tokenizers import open_tokenizer
from wkv.tokenizers.choose import IN_DIRECTORIES
from wkv.tokenizers.world import WorldTokenizer

DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16"}

HEAD_SIZES = (64, 128)
"""Head sizes of llama.cpp's GPU kernels; its CPU kernels read past the end of smaller heads."""

LARGEST = 65504
"""The largest number that float16 can represent."""


@dataclass(frozen=True)
class GGUFResult:
    """The result of an export to GGUF.

    Attributes:
        path: the file.
        n_bytes: its size.
        dtype: dtype of the matrices: "fp32", "fp16", "bf16" or "q8_0".
        n_tensors: number of tensors that were compared with the source.
        n_fields: number of metadata fields that were compared with the source.
        tokenizer: name of the vocabulary in the file.
        dropped: source tensors that were not written because no model uses them.
        by_llama: largest difference of logits between wkv and llama.cpp; None if it was not used.
        reason: why llama.cpp was not used; empty if it was.
    """

    path: Path
    n_bytes: int
    dtype: str
    n_tensors: int
    n_fields: int
    tokenizer: str
    dropped: tuple[str, ...]
    by_llama: float | None
    reason: str = ""


def write_gguf(
    source: str | Path,
    destination: str | Path,
    *,
    dtype: str | None = None,
    tokenizer: Path | None = None,
    overwrite: bool = False,
) -> GGUFResult:
    """Write a GGUF file, verify it, and only then move it into place.

    Matrices are written in `dtype`. Vectors, and tensors that llama.cpp only reads in float32, are
    written in float32. With q8_0, low-rank factors and matrices whose rows are not a multiple of 32
    long are float16. If llama-cpp-python is installed, llama.cpp also loads the file, and its
    tokens and logits are compared with those of wkv.

    Args:
        source: any RWKV-6 or 7 checkpoint that `wkv.load` reads.
        destination: the file to write; `.gguf` is added if it is missing.
        dtype: "fp32", "fp16", "bf16" or "q8_0"; None: the most precise dtype of the source.
        tokenizer: a vocabulary file in World format; None: selected by the vocabulary size.
        overwrite: whether to replace an existing file.

    Raises:
        InputError: if llama.cpp cannot use the model, vocabulary or dtype, or the destination
            exists.
        CheckpointError: if the source cannot be read, contains a tuned state or was made for a
            strategy, or the file differs from it or cannot be written.
        TokenizerError: if the chosen tokenizer cannot be used.
        MissingExtraError: if the gguf package is not installed.
    """
    if find_spec("gguf") is None:
        raise MissingExtraError(
            "writing GGUF files requires the gguf package, which is not installed; run: "
            f"{install_command('gguf')}"
        )
    if dtype is not None and dtype not in KINDS:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(KINDS)}")
    description = describe(source)
    _check_source(description)
    vocabulary = _tokenizer_of(description, tokenizer)
    path = new_file(destination, ".gguf", description.checkpoint, overwrite=overwrite)
    dtype = dtype or DTYPES.get(description.finest_dtype, "fp32")
    fields = metadata(description.config, _name_of(description.checkpoint.path), dtype, vocabulary)
    used = description.shapes
    official = {name: description.checkpoint[name] for name in used}
    tensors = gguf_tensors(description.config.generation, official)
    with temporary_folder(path) as folder:
        partial = folder / path.name
        with write_errors(path):
            _write(partial, description.config.generation, tensors, fields, dtype)
        check_file(partial, description, fields, len(tensors))
        difference, reason = compare_with_llama(partial, description, vocabulary, dtype)
        with write_errors(path):
            move_into_place(partial, path)
    dropped = tuple(sorted(set(description.checkpoint) - set(used)))
    size = path.stat().st_size
    counts = len(tensors), len(fields)
    return GGUFResult(path, size, dtype, *counts, vocabulary.name, dropped, difference, reason)


def _check_source(description: Description) -> None:
    """Raise an error if llama.cpp does not support the model."""
    config, path = description.config, description.checkpoint.path
    if config.generation not in RULES:
        raise InputError(
            f"{path}: this is RWKV-{config.generation}, and llama.cpp supports RWKV-6 and 7 only; "
            "use wkv, or another format of wkv convert"
        )
    check_publishable(description, "GGUF files")
    size = getattr(config, "head_size", 0)
    if size not in HEAD_SIZES:
        raise InputError(
            f"{path}: its heads have {size} channels, and llama.cpp only supports 64 or 128; use "
            "this model with wkv"
        )
    if config.dim_att != config.n_embd:
        raise InputError(
            f"{path}: the time mix is {config.dim_att} wide and the embedding {config.n_embd}; "
            "llama.cpp expects equal widths, so use this model with wkv"
        )


def _tokenizer_of(description: Description, chosen: Path | None) -> WorldTokenizer:
    """Return the World tokenizer that was chosen, or that of the model."""
    vocab_size, path = description.config.vocab_size, description.checkpoint.path
    if chosen is not None:
        tokenizer = open_tokenizer(chosen, vocab_size)
    else:
        try:
            tokenizer = description.tokenizer()
        except TokenizerError as error:
            raise InputError(
                f"{path}: no World vocabulary is known for {vocab_size} ids, and a GGUF file of "
                "RWKV must contain one; name a file in World format with --tokenizer FILE"
            ) from error
    if not isinstance(tokenizer, WorldTokenizer):
        raise InputError(
            f"{path}: {tokenizer.name} is not a World tokenizer, and llama.cpp supports no other "
            "one for RWKV; name a file in World format, or use this model with wkv"
        )
    return tokenizer


def _name_of(path: Path) -> str:
    """Return the name of a model: that of its file or directory."""
    return path.parent.name if path.name.startswith(IN_DIRECTORIES) else path.stem


def _write(
    path: Path, generation: str, tensors: dict[str, Tensor], fields: dict[str, Any], dtype: str
) -> None:
    """Write the file, with only one tensor in memory at a time."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, quants

    writer = GGUFWriter(None, f"rwkv{generation}")
    adders: dict[type, Callable[[str, Any], None]] = {
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in fields.items():
        adders[type(value)](key, value)
    kinds = {}
    for name, tensor in tensors.items():
        kinds[name] = GGMLQuantizationType[kind_of(name, tuple(tensor.shape), dtype)]
        block, size = GGML_QUANT_SIZES[kinds[name]]
        n_bytes = tensor.numel() // block * size
        float32 = np.dtype(np.float32)
        writer.add_tensor_info(name, tuple(tensor.shape), float32, n_bytes, kinds[name])
    try:
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors.items():
            values = tensor.float().contiguous()
            if kinds[name].name == "F16" and values.numel() and values.abs().max() > LARGEST:
                raise InputError(
                    f"{name} contains {float(values.abs().max()):.3g}, more than float16 can "
                    "represent; choose another dtype, such as bf16"
                )
            writer.write_tensor_data(quants.quantize(values.numpy(), kinds[name]))
        writer.flush()
    finally:
        writer.close()
