"""Conversion of a checkpoint to a `.pth` or `.safetensors` file, with verification.

A converted file has the official names and shapes. If it is made for a strategy, each tensor is
stored as that strategy needs it. Loading then neither casts nor quantizes, and all tensors can stay
mapped to the file. Unless it contains int8 matrices, it is still an ordinary checkpoint.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts import is_folded
from wkv.convert.verify import verify
from wkv.errors import InputError, StrategyError, TokenizerError
from wkv.files import checked_destination, move_into_place, temporary_folder, write_errors
from wkv.inference.describe import Description, describe
from wkv.inference.load import build_model, strategy_for
from wkv.inference.model import Model
from wkv.models.strategy import Segment, Strategy
from wkv.models.strategy.language import DTYPES
from wkv.models.strategy.placement import place
from wkv.tokenizers import Tokenizer, open_tokenizer
from wkv.tokenizers.choose import name_for, tokenizer_file_of, vocabulary_file_of
from wkv.tokenizers.world import WorldTokenizer, write_vocabulary

SUFFIXES = {"pth": ".pth", "safetensors": ".safetensors"}


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        path: the new file.
        n_bytes: its size.
        strategy: the strategy it was made for; None if it has the dtypes of its source.
        largest_difference: largest difference between the logits of the source and the new file.
        dropped: names of source tensors that were not written because no model uses them.
    """

    path: Path
    n_bytes: int
    strategy: str | None
    largest_difference: float
    dropped: tuple[str, ...]


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: str = "pth",
    strategy: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write a checkpoint as `.pth` or `.safetensors`, unchanged or prepared for a strategy.

    Nothing is moved to a GPU, so the strategy may name devices that this machine does not have. The
    new file is written to a temporary name, verified against the source, and then moved into place.
    Tuned initial states are included, and a vocabulary file next to the source is copied.

    Args:
        source: any checkpoint that `wkv.load` reads.
        destination: the file to write; the suffix is added if it is missing.
        to: "pth" or "safetensors".
        strategy: a ChatRWKV strategy string, or "auto"; None: do not change any dtype.
        overwrite: whether to replace an existing file.

    Raises:
        CheckpointError: if the source cannot be read, or the new file differs from it.
        StrategyError: if the strategy is wrong.
        InputError: if `to` is unknown, or the destination exists.
    """
    if to not in SUFFIXES:
        raise InputError(f"a checkpoint can be converted to {' or '.join(SUFFIXES)}, not to {to!r}")
    description = describe(source)
    path = new_file(destination, SUFFIXES[to], description.checkpoint, overwrite=overwrite)
    check_vocabulary(path, description.checkpoint.path, overwrite=overwrite)
    chosen = None if strategy is None else strategy_for(description, strategy, check=False)
    if chosen is not None and chosen.is_packed:
        raise StrategyError(
            f"{str(chosen)!r} packs weights; use `wkv quantize`, which also reports the loss, or "
            "convert with a strategy of fp32, bf16 or fp16"
        )
    source_strategy = description.checkpoint.strategy
    if description.checkpoint.is_packed:  # packed matrices are written unpacked
        source_strategy = "cpu fp32" if is_folded(description.checkpoint) else None
    made_for = source_strategy if chosen is None else str(chosen)
    metadata = {} if made_for is None else {"_wkv_strategy": made_for}
    with temporary_folder(path) as folder:
        if chosen is None:
            tensors = _original_tensors(description)
            model = build_model(description, mapped_strategy(description), engine="torch")
        else:
            model = build_model(description, chosen.on_cpu(), engine="torch")
            tensors = _prepared_tensors(model, description)
        partial = folder / path.name
        with write_errors(path):
            write_tensors(partial, to, tensors, metadata)
        _, difference = verify(model, partial)
        with write_errors(path):
            move_into_place(partial, path)
            write_vocabulary_beside(path, description)
    dropped = tuple(sorted(set(description.checkpoint) - set(tensors)))
    return Conversion(path, path.stat().st_size, made_for, difference, dropped)


def new_file(
    wanted: str | Path, suffix: str, source: Checkpoint, *, overwrite: bool = False
) -> Path:
    """Return the path of the file to write, with its suffix.

    Raises:
        InputError: if it is part of the source, a folder, or exists without `overwrite`.
    """
    path = checked_destination(wanted)
    named = path if path.suffix == suffix else path.with_name(path.name + suffix)
    if path.is_dir() or named.is_dir():
        raise InputError(f"{path}: this is a folder; name a file")
    path = checked_destination(named)
    own = {file.absolute() for file in (source.path, *source.shards)}
    if path in own or (path.exists() and any(path.samefile(file) for file in own)):
        raise InputError(f"{path}: this is the checkpoint itself; name another file")
    _check_new(path, overwrite=overwrite)
    return path


def check_vocabulary(path: Path, source: Path, *, overwrite: bool) -> None:
    """Raise an error if the new checkpoint's vocabulary file exists and is not the source's."""
    vocabulary = vocabulary_file_of(path)
    if vocabulary != vocabulary_file_of(source.absolute()):
        _check_new(vocabulary, overwrite=overwrite)


def _check_new(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: the file exists; name another file, or allow overwriting it (--overwrite)"
        )


def _original_tensors(description: Description) -> dict[str, Tensor]:
    """Return the tensors of the source under their official names."""
    used = {*description.shapes, *description.tuned, *description.scales}
    return {name: description.checkpoint[name] for name in description.checkpoint if name in used}


def _prepared_tensors(model: Model, description: Description) -> dict[str, Tensor]:
    """Return the tensors of a loaded network, and the tuned initial states."""
    tuned = {name: description.checkpoint[name] for name in description.tuned}
    return {**model.network.state_dict(), **tuned}


def write_tensors(
    path: Path, to: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> None:
    """Write tensors and metadata to a file."""
    if to == "pth":
        torch.save({**tensors, **metadata}, path)
        return
    from safetensors.torch import save_file

    save_file(unshared(tensors), path, metadata={"format": "pt", **metadata})


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors, with copies of those that share memory with an earlier one."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        plain[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return plain


def mapped_strategy(description: Description) -> Strategy:
    """Return a CPU strategy that leaves a checkpoint memory-mapped, so that it uses little memory.

    It is the strategy that the file was converted for, or the finest dtype of its matrices.
    """
    if description.checkpoint.strategy is not None and not description.checkpoint.is_packed:
        return strategy_for(description, "auto", check=False).on_cpu()
    finest = description.finest_dtype
    dtype = finest if finest in DTYPES.values() else torch.float32
    return place([Segment("cpu", dtype)], description.config.n_layer)


def write_vocabulary_beside(path: Path, description: Description) -> None:
    """Write the vocabulary of a source that has its own to `NAME.vocab.txt`; else remove that."""
    source = description.checkpoint.path
    target, beside = vocabulary_file_of(path), tokenizer_file_of(source)
    if beside is not None and beside.absolute() == target:
        return
    target.unlink(missing_ok=True)
    tokenizer: Tokenizer | None = None
    if beside is not None:
        tokenizer = open_tokenizer(beside)
    elif name_for(description.config.vocab_size) is None:  # a GGUF file may contain one
        with suppress(TokenizerError):
            tokenizer = description.tokenizer()
    if isinstance(tokenizer, WorldTokenizer):
        write_vocabulary(tokenizer.entries, target)
