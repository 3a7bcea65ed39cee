"""Writes a checkpoint in another form, and proves that it is the same model.

A converted file has the official names and shapes. Made for a strategy, it holds each tensor as
that strategy needs it, so that loading casts and quantizes nothing and can leave everything mapped
to the file; without int8 in it, it is still a checkpoint like any other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.atomic_write import destination as to_be_written
from wkv.checkpoint.atomic_write import unfinished, writing
from wkv.checkpoint.layouts import is_folded
from wkv.errors import CheckpointError, InputError, StrategyError
from wkv.inference.load import Description, build_model, describe, strategy_for
from wkv.inference.model import Model
from wkv.strategy import Segment, Strategy
from wkv.strategy.language import DTYPES
from wkv.strategy.placement import place
from wkv.tokenizers import open_tokenizer
from wkv.tokenizers.choose import tokenizer_beside, vocabulary_beside
from wkv.tokenizers.world import WorldTokenizer, write_vocabulary

SUFFIXES = {"pth": ".pth", "safetensors": ".safetensors"}

PROOF_TOKENS = 48
"""Tokens that are read by both models, as one sequence and one by one."""


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        path: the new file.
        n_bytes: its size.
        strategy: the one it was made for; None if it keeps the dtypes of its source.
        largest_difference: between the logits of the source and of the new file, read again.
        dropped: names of tensors in the source that no model uses, and that were left out.
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
    """Write a checkpoint as `.pth` or `.safetensors`, as it is or prepared for a strategy.

    Nothing is moved to a GPU, so a strategy may name devices that are not here. The new file
    appears whole, after its logits were compared with the source's, or not at all. Tuned initial
    states are kept, and so is a vocabulary file beside the source.

    Args:
        source: any checkpoint that `wkv.load` reads.
        destination: the file to write; the ending of its kind is added if it is missing.
        to: "pth" or "safetensors".
        strategy: in ChatRWKV's language, or "auto"; None keeps every dtype.
        overwrite: whether a file that exists may be replaced.

    Raises:
        CheckpointError: if the source cannot be read, or the new file differs from it.
        StrategyError: if the strategy is wrong.
        InputError: for another `to`, or a destination that exists.
    """
    if to not in SUFFIXES:
        raise InputError(f"a checkpoint is converted to {' or '.join(SUFFIXES)}, not to {to!r}")
    description = describe(source)
    path = new_file(destination, SUFFIXES[to], description.checkpoint, overwrite=overwrite)
    check_vocabulary(path, description.checkpoint.path, overwrite=overwrite)
    chosen = None if strategy is None else strategy_for(description, strategy, check=False)
    if chosen is not None and chosen.is_packed:
        raise StrategyError(
            f"{str(chosen)!r} packs weights, which `wkv quantize` does, with a report of what it "
            "costs; convert takes the strategies of fp32, bf16 and fp16"
        )
    kept = description.checkpoint.strategy
    if description.checkpoint.is_packed:  # what is written is unpacked
        kept = "cpu fp32" if is_folded(description.checkpoint) else None
    made_for = kept if chosen is None else str(chosen)
    notes = {} if made_for is None else {"_wkv_strategy": made_for}
    with unfinished(path) as folder:
        if chosen is None:
            tensors = _as_they_are(description)
            model = build_model(description, mapped_strategy(description), engine="torch")
        else:
            model = build_model(description, chosen.on_cpu(), engine="torch")
            tensors = _as_prepared(model, description)
        made = folder / path.name
        with writing(path):
            _write(made, to, tensors, notes)
        difference = _prove(model, made)
        with writing(path):
            made.replace(path)
            write_vocabulary_beside(path, description.checkpoint.path)
    dropped = tuple(sorted(set(description.checkpoint) - set(tensors)))
    return Conversion(path, path.stat().st_size, made_for, difference, dropped)


def new_file(
    wanted: str | Path, suffix: str, source: Checkpoint, *, overwrite: bool = False
) -> Path:
    """The file to write, with its ending.

    Raises:
        InputError: if it is part of the source, a folder, or exists.
    """
    path = to_be_written(wanted)
    named = path if path.suffix == suffix else path.with_name(path.name + suffix)
    if path.is_dir() or named.is_dir():
        raise InputError(f"{path}: this is a folder; give the name of a file")
    path = to_be_written(named)
    own = {file.absolute() for file in (source.path, *source.shards)}
    if path in own or (path.exists() and any(path.samefile(file) for file in own)):
        raise InputError(f"{path}: this is the checkpoint itself; give another name")
    _check_new(path, overwrite=overwrite)
    return path


def check_vocabulary(path: Path, source: Path, *, overwrite: bool) -> None:
    """Raise if a vocabulary lies where that of the new file would, unless it is the source's."""
    vocabulary = vocabulary_beside(path)
    if vocabulary != vocabulary_beside(source.absolute()):
        _check_new(vocabulary, overwrite=overwrite)


def _check_new(path: Path, *, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: the file exists; give another name, or ask to overwrite it (--overwrite)"
        )


def _as_they_are(description: Description) -> dict[str, Tensor]:
    """The tensors of the source under their official names."""
    used = {*description.network.state_dict(), *description.tuned, *description.scales}
    return {name: description.checkpoint[name] for name in description.checkpoint if name in used}


def _as_prepared(model: Model, description: Description) -> dict[str, Tensor]:
    """The tensors that a loaded network holds, and the tuned initial states."""
    tuned = {name: description.checkpoint[name] for name in description.tuned}
    return {**model.network.state_dict(), **tuned}


def _write(path: Path, to: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str]) -> None:
    """Write the file."""
    if to == "pth":
        torch.save({**tensors, **notes}, path)
        return
    from safetensors.torch import save_file

    save_file(unshared(tensors), path, metadata={"format": "pt", **notes})


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous, with a copy of each that shares its memory with an earlier one."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        plain[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return plain


def _prove(model: Model, path: Path) -> float:
    """The largest difference between the logits of a model and those of a file.

    Raises:
        CheckpointError: if any tensor differs.
    """
    again = build_model(describe(path), model.strategy, engine="torch")
    wrong = differing_tensors(model, again)
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors of the new file differ from those of its source, the "
            f"first is {wrong[0]}; it was not kept. Is the disk sound?"
        )
    return max(float((a - b).abs().max()) for a, b in both_logits(model, again))


def both_logits(a: Model, b: Model) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of two models for the same PROOF_TOKENS tokens: as one sequence, then one by one."""
    ids = [(7 * i + 1) % a.config.vocab_size for i in range(PROOF_TOKENS)]
    for pieces in ([ids], [[token] for token in ids]):
        state = other = None
        for piece in pieces:
            logits, state = a.forward(piece, state, all_logits=True)
            others, other = b.forward(piece, other, all_logits=True)
            yield logits, others


def mapped_strategy(description: Description) -> Strategy:
    """A strategy on the CPU under which a checkpoint stays mapped and takes hardly any memory.

    It is that of a converted file, or the finest dtype of its matrices.
    """
    if description.checkpoint.strategy is not None and not description.checkpoint.is_packed:
        return strategy_for(description, "auto", check=False).on_cpu()
    finest = description.finest_dtype
    dtype = finest if finest in DTYPES.values() else torch.float32
    return place([Segment("cpu", dtype)], description.config.n_layer)


def differing_tensors(a: Model, b: Model) -> list[str]:
    """Names of the tensors in which two models, loaded by one strategy, are not equal."""
    ours, theirs = a.network.state_dict(), b.network.state_dict()
    return [name for name in ours if name not in theirs or not _same(ours[name], theirs[name])]


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in dtype and every value, NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a, b) or (
        a.is_floating_point() and torch.equal(a.nan_to_num(), b.nan_to_num())
    )


def write_vocabulary_beside(path: Path, source: Path) -> None:
    """Write `NAME.vocab.txt` if the source has a vocabulary of its own; else there is none."""
    target, beside = vocabulary_beside(path), tokenizer_beside(source)
    if beside is not None and beside.absolute() == target:
        return
    target.unlink(missing_ok=True)
    tokenizer = None if beside is None else open_tokenizer(beside)
    if isinstance(tokenizer, WorldTokenizer):
        write_vocabulary(tokenizer.entries, target)
