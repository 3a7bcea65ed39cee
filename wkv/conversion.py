"""Writes a checkpoint in another form, and proves that it is the same model.

A converted file has the official names and shapes. Made for a strategy, it holds each tensor as
that strategy needs it, so that loading casts and quantises nothing and can leave everything mapped
to the file; without int8 in it, it is still a checkpoint like any other.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.errors import CheckpointError, InputError
from wkv.loading import Description, build_model, describe, strategy_for
from wkv.model import Model

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
    path = _destination(destination, SUFFIXES[to], description.checkpoint.path, overwrite)
    chosen = None if strategy is None else strategy_for(description, strategy, check=False)
    made_for = description.checkpoint.strategy if chosen is None else str(chosen)
    notes = {} if made_for is None else {"_wkv_strategy": made_for}
    partial = path.with_name(path.name + ".partial")
    try:
        if chosen is None:
            tensors = _as_they_are(description)
            any_strategy = strategy_for(description, "auto", check=False).on_cpu()
            model = build_model(describe(source), any_strategy)
        else:
            model = build_model(description, chosen.on_cpu())
            tensors = _as_prepared(model, description)
        _write(partial, to, tensors, notes)
        difference = _prove(model, partial)
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: the file could not be written ({error})") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    _copy_vocabulary(description.checkpoint.path, path)
    dropped = tuple(sorted(set(description.checkpoint) - set(tensors)))
    return Conversion(path, path.stat().st_size, made_for, difference, dropped)


def _destination(wanted: str | Path, suffix: str, source: Path, overwrite: bool) -> Path:
    """The file to write.

    Raises:
        InputError: if it is the source, a directory, or exists.
    """
    path = Path(wanted).expanduser()
    if path.suffix != suffix:
        path = path.with_name(path.name + suffix)
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.is_dir() or (path.exists() and path.samefile(source)):
        what = "a folder" if path.is_dir() else "the checkpoint itself"
        raise InputError(f"{path}: this is {what}; give another name for the new file")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: the file exists; give another name, or ask to overwrite it")
    return path


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

    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt", **notes})


def _prove(model: Model, path: Path) -> float:
    """The largest difference between the logits of a model and those of a file.

    Raises:
        CheckpointError: if any tensor differs.
    """
    again = build_model(describe(path), model.strategy)
    expected, found = model.network.state_dict(), again.network.state_dict()
    wrong = [name for name in expected if not _same(expected[name], found[name])]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors of the new file differ from those of its source, the "
            f"first is {wrong[0]}; it was not kept. Is the disk sound?"
        )
    ids = [(7 * i + 1) % model.config.vocab_size for i in range(PROOF_TOKENS)]
    difference = 0.0
    for pieces in ([ids], [[token] for token in ids]):
        state = other = None
        for piece in pieces:
            logits, state = model.forward(piece, state, all_logits=True)
            others, other = again.forward(piece, other, all_logits=True)
            difference = max(difference, float((logits - others).abs().max()))
    return difference


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in dtype and every value, NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a, b) or (
        a.is_floating_point() and torch.equal(a.nan_to_num(), b.nan_to_num())
    )


def _copy_vocabulary(source: Path, path: Path) -> None:
    """Copy `NAME.vocab.txt` beside the new file, if there is one beside the source."""
    beside = source.with_suffix(".vocab.txt")
    if beside.is_file():
        shutil.copyfile(beside, path.with_suffix(".vocab.txt"))
