"""Convert an adapter or a tuned state to the format of another program, and verify the result.

The written file is read again, and its effect is compared with that of the source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.changes import Change, LowRank
from wkv.adapters.open import Adapter, open_adapter
from wkv.adapters.peft_folder import AdapterBase, read_notes, write_peft_folder
from wkv.adapters.tuned_state import TunedState, is_state, open_tuned_state
from wkv.adapters.write_file import ENDINGS as ADAPTER_ENDINGS
from wkv.adapters.write_file import common_alpha, write_adapter
from wkv.adapters.write_state import ENDINGS as STATE_ENDINGS
from wkv.adapters.write_state import state_path, tuned_tensors, write_tuned_state
from wkv.errors import CheckpointError, InputError, StateError, WKVError
from wkv.files import checked_destination
from wkv.inference.describe import Description, adapter_for, describe, identity
from wkv.models.state import read_header, read_layers

FORMATS = ("peft", *ADAPTER_ENDINGS, *STATE_ENDINGS)

HALF_STEP = 2.0**-10
"""The largest relative error of two factors in half precision."""


@dataclass(frozen=True)
class TunedFile:
    """The result of a conversion.

    Attributes:
        path: the new file or folder.
        n_tensors: the number of tensors of the base model that the adapter changes, or of layers
            of the state.
        difference: the largest difference between a value of the change, or of the state, in the
            source and in the new file.
        alpha: the alpha to use with the new file, which does not contain it; None if it does, or
            there is none.
        generation: the generation that the new file is for, if it was only assumed.
        notes: what the source says about its use, which the new file cannot contain.
    """

    path: Path
    n_tensors: int
    difference: float
    alpha: float | None = None
    generation: str | None = None
    notes: Mapping[str, str] | None = None


@dataclass(frozen=True)
class TunedOptions:
    """The options of a conversion.

    Attributes:
        to: one of `FORMATS`.
        alpha: the alpha of the adapter's training, for sources that do not contain it.
        base: the model that was tuned; None: its names are assumed to be those of RWKV-7, unless
            the source says or shows that they are not.
        overwrite: whether to replace an existing file.
    """

    to: str
    alpha: float | None = None
    base: str | Path | None = None
    overwrite: bool = False


def convert_tuned(source: str | Path, destination: str | Path, options: TunedOptions) -> TunedFile:
    """Write an adapter or a tuned state in another format, and read it again.

    Args:
        source: an adapter in any format of `wkv.adapters.open`, or a tuned state in any format of
            `wkv.adapters.tuned_state` or of wkv, or a model with a tuned state.
        destination: the file or folder to write; a missing extension is added.
        options: the options of the conversion.

    Raises:
        CheckpointError, StateError: if the source cannot be read, is not for the base model, or
            has no form in the other format, or the new file cannot be written or differs.
        InputError: if an option is wrong, or the destination exists.
    """
    if options.to not in FORMATS:
        raise InputError(f"to is {options.to!r}, expected one of {', '.join(FORMATS)}")
    source = Path(source).expanduser()
    if not source.exists():
        raise InputError(f"{source}: there is no such file; give an adapter or a tuned state")
    has_state = is_state(source) or _is_tuned_model(source)
    if has_state != (options.to in STATE_ENDINGS):
        kind = "a tuned state" if has_state else "no tuned state"
        fitting = STATE_ENDINGS if has_state else ("peft", *ADAPTER_ENDINGS)
        raise InputError(
            f"{source} is {kind}, and {options.to} is for others; choose {' or '.join(fitting)}"
        )
    if options.to in STATE_ENDINGS:
        return _convert_state(source, destination, options)
    return _convert_adapter(source, destination, options)


def _convert_state(source: Path, destination: str | Path, options: TunedOptions) -> TunedFile:
    if options.alpha is not None:
        raise InputError(f"alpha is {options.alpha:g} and {source} is a state, which has none")
    tensors = tuned_tensors(_read_state(source))
    if options.base is not None:
        _check_sizes(source, tensors, describe(options.base))
    path = _new(state_path(destination, options.to), source, overwrite=options.overwrite)
    written = write_tuned_state(tensors, path, options.to)
    again = open_tuned_state(written)
    assert again is not None
    expected = torch.stack(list(tensors.values()))
    difference = float((again.wkv - expected).abs().max())
    if not difference <= HALF_STEP * float(expected.abs().max()):
        raise StateError(f"{written}: values differ by {difference:g} from {source}; report this")
    try:
        notes = read_header(source).metadata
    except StateError:  # another program's, which has none
        notes = {}
    return TunedFile(written, len(tensors), difference, notes=notes)


def _is_tuned_model(source: Path) -> bool:
    """Check whether a file is a model with a tuned state in it."""
    try:
        return bool(describe(source).tuned)
    except WKVError:
        return False


def _read_state(source: Path) -> TunedState:
    """Read a tuned state of another program, a state of wkv, or the tuned state in a model."""
    tuned = open_tuned_state(source)
    if tuned is not None:
        return tuned
    if _is_tuned_model(source):
        model = describe(source)
        names = [f"blocks.{layer}.att.time_state" for layer in range(model.config.n_layer)]
        if set(names) != set(model.tuned):
            raise StateError(f"{source}: the tuned state does not have one matrix for every layer")
        return TunedState(torch.stack([model.checkpoint[name].float() for name in names]))
    layers = read_layers(source)
    if not layers or layers[0].wkv.dim() != 4 or len(layers[0].wkv) != 1:
        raise StateError(
            f"{source}: other programs cannot read it; expected one row of a model of generation "
            "5 to 7"
        )
    shifts = [
        torch.cat([getattr(one, name) for one in layers]) for name in ("att_shift", "ffn_shift")
    ]
    return TunedState(torch.cat([one.wkv for one in layers]), torch.stack(shifts))


def _check_sizes(source: Path, tensors: Mapping[str, Tensor], base: Description) -> None:
    """Raise a StateError unless a state has the sizes of a model."""
    config = base.config
    shape = (config.n_head, config.head_size, config.head_size)
    found = tuple(next(iter(tensors.values())).shape)
    if (len(tensors), found) != (config.n_layer, shape):
        raise StateError(
            f"{source}: this tuned state has {len(tensors)} layers of {found}, and "
            f"{base.checkpoint.path} has {config.n_layer} layers of {shape}; give the model that "
            "it was tuned for"
        )


def _convert_adapter(source: Path, destination: str | Path, options: TunedOptions) -> TunedFile:
    base = None if options.base is None else describe(options.base)
    if base is None:
        adapter = open_adapter(source, None, options.alpha)
        stored = read_notes(source).get("generation")
        if stored is None and len(adapter.generations) == 1:
            [stored] = adapter.generations
        generation = str(stored or assumed_generation(adapter))
    else:
        adapter = adapter_for(base, source, options.alpha)
        stored = generation = base.config.generation
    path = checked_destination(destination)
    alpha = None
    if options.to == "peft":
        written_for = AdapterBase(
            generation,
            str(read_notes(source).get("identity", "")) if base is None else identity(base),
            "" if base is None else str(base.checkpoint.path.parent),
        )
        write_peft_folder(path, adapter.changes, written_for)
    else:
        endings = ADAPTER_ENDINGS[options.to]
        path = path if path.suffix in endings else path.with_name(path.name + endings[0])
        path = _new(path, source, overwrite=options.overwrite)
        write_adapter(path, adapter.changes, options.to, generation)
        alpha = None if options.to == "gguf-lora" else common_alpha(adapter.changes)
    again = open_adapter(path, None, alpha)
    difference = _difference(path, adapter, again)
    names_generation = options.to in ("peft", "gguf-lora") and not stored
    return TunedFile(
        path, len(adapter.changes), difference, alpha, generation if names_generation else None
    )


def assumed_generation(adapter: Adapter) -> str:
    """Return "6" if an adapter changes matrices that RWKV-7 does not have, otherwise "7"."""
    older = (".att.gate.", ".ffn.receptance.", ".att.time_", ".ffn.time_")
    return "6" if any(part in name for name in adapter.changes for part in older) else "7"


def _new(path: Path, source: Path, *, overwrite: bool) -> Path:
    """Return the path of a file to write.

    Raises:
        InputError: if it is the source, a folder, or exists without `overwrite`.
    """
    if path.is_dir() or (path.exists() and path.samefile(source)):
        raise InputError(f"{path}: this is a folder or the source itself; name another file")
    if path.exists() and not overwrite:
        raise InputError(
            f"{path}: the file exists; name another file, or allow overwriting it (--overwrite)"
        )
    return path


def _difference(path: Path, adapter: Adapter, again: Adapter) -> float:
    """Return the largest difference of two adapters' effects.

    Raises:
        CheckpointError: if it is larger than half precision explains.
    """
    if adapter.changes.keys() != again.changes.keys():
        raise CheckpointError(f"{path}: it does not change the same tensors as the source")
    largest = 0.0
    for name, change in adapter.changes.items():
        for expected, found in zip(_effect(change), _effect(again.changes[name]), strict=True):
            difference = float((expected - found).abs().max())
            if not difference <= 4 * HALF_STEP * max(float(expected.abs().max()), 1e-4):
                raise CheckpointError(
                    f"{path}: the change of {name} differs by {difference:g} from the source, more "
                    "than rounding explains; write it in another format"
                )
            largest = max(largest, difference)
    return largest


def _effect(change: Change) -> tuple[Tensor, ...]:
    """Return tensors that determine the effect of a change."""
    if not isinstance(change, LowRank):
        return change.tensors()
    product = change.scale * (change.B @ change.A)
    return (product,) if change.magnitude is None else (product, change.magnitude)
