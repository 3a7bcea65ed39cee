"""Merge an adapter or a tuned state into a checkpoint, and verify the result.

The new tensors are computed in float32 and rounded once. Logits are compared in float32 between the
base model with the adapter beside its matrices, which is how it was trained, and the written file.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.changes import Change
from wkv.adapters.open import Adapter
from wkv.adapters.tuned_state import is_state
from wkv.adapters.write_state import state_tensors
from wkv.checkpoint.layouts import FOLDER_LAYOUTS, is_folded
from wkv.convert.checkpoint_file import (
    SUFFIXES,
    check_vocabulary,
    new_file,
    write_tensors,
    write_vocabulary_beside,
)
from wkv.convert.gguf.export import write_gguf
from wkv.convert.huggingface.export import ExportOptions, export
from wkv.convert.verify import LIMIT, arbitrary_ids, check_equal
from wkv.errors import CheckpointError, InputError
from wkv.files import checked_destination, move_into_place, temporary_folder, write_errors
from wkv.inference.describe import Description, adapter_for, describe, with_adapter
from wkv.inference.load import build_model, strategy_for
from wkv.inference.model import Model
from wkv.models import GENERATIONS
from wkv.models.parts import Linear
from wkv.models.state import State
from wkv.models.strategy.language import DTYPES

TARGETS = (*SUFFIXES, "hf", "gguf")


@dataclass(frozen=True)
class Merge:
    """The result of a merge.

    Attributes:
        path: the new file or directory.
        dtype: the dtype of its matrices.
        n_changed: the number of tensors that differ from those of the base.
        difference: largest difference of logits in float32 between the base with the adapter
            beside it and the new file, whose tensors are rounded to their dtype.
        by_merging: the part of it that is not rounding to the dtype: the same difference, if
            the merged tensors stay in float32.
        rounding: the largest difference between a merged weight and its rounded value.
        lost: the fraction of changed weights that rounding sets back to the value of the base.
    """

    path: Path
    dtype: str
    n_changed: int
    difference: float
    by_merging: float
    rounding: float
    lost: float


@dataclass(frozen=True)
class MergeOptions:
    """The options of a merge.

    Attributes:
        alpha: the alpha of the adapter's training, for files that do not contain it.
        to: "pth", "safetensors", "hf" or "gguf"; None: by the extension of the destination,
            otherwise the format of the base.
        dtype: "fp32", "bf16" or "fp16" for all tensors; None: that of each tensor of the base.
        overwrite: whether to replace an existing file.
    """

    alpha: float | None = None
    to: str | None = None
    dtype: str | None = None
    overwrite: bool = False


@dataclass
class _Rounding:
    """Counts what rounding does to the changed weights."""

    largest: float = 0.0
    changed: int = 0
    lost: int = 0

    def add(self, base: Tensor, exact: Tensor, rounded: Tensor) -> None:
        """Count the weights of one tensor."""
        changed = exact != base.float()
        self.largest = max(self.largest, float((exact - rounded.float()).abs().max()))
        self.changed += int(changed.sum())
        self.lost += int((changed & (rounded == base.to(rounded.dtype))).sum())


def merge(
    base: str | Path,
    change: str | Path,
    destination: str | Path,
    options: MergeOptions | None = None,
) -> Merge:
    """Write a checkpoint with an adapter or a tuned state merged into it, and verify it.

    Args:
        base: any checkpoint that `wkv.load` reads.
        change: an adapter in any format of `wkv.adapters.open`, or a tuned state.
        destination: the file or directory to write.
        options: the options of the merge.

    Raises:
        CheckpointError: if a file cannot be read or written, the adapter does not fit the base, or
            the written model differs.
        StateError: if a tuned state does not fit the base.
        InputError: if an option is wrong, or the destination exists.
    """
    options = options or MergeOptions()
    description = describe(base)
    to = _target(description, destination, options)
    if to in SUFFIXES:
        source = description.checkpoint
        path = new_file(destination, SUFFIXES[to], source, overwrite=options.overwrite)
        check_vocabulary(path, source.path, overwrite=options.overwrite)
    else:
        path = checked_destination(destination)
    strategy = strategy_for(description, "cpu fp32")
    start: State | None = None
    if is_state(change):
        if options.alpha is not None:
            raise InputError(f"alpha is {options.alpha:g} and {change} is a state, which has none")
        model = build_model(description, strategy, engine="torch")
        start = State.load(change, model)
        expected = _logits(model, start)
        merged, extra = description, state_tensors(start)
    else:
        adapter = adapter_for(description, change, options.alpha)
        expected = _logits(_beside(description, adapter))
        merged, extra = with_adapter(description, adapter), {}
    tensors, n_changed, rounding = _rounded(description, merged, extra, options.dtype)
    model = build_model(merged, strategy, engine="torch")
    by_merging = _difference(expected, _logits(model, start))
    _check_merged(by_merging, expected, str(change))
    del model
    with temporary_folder(path) as folder:
        partial = folder / f"{path.stem}{SUFFIXES.get(to, '.safetensors')}"
        with write_errors(path):
            write_tensors(partial, partial.suffix[1:], tensors, {})
            write_vocabulary_beside(partial, description)
        difference = _difference(expected, _logits(_reloaded(partial, tensors)))
        if not math.isfinite(difference):
            raise CheckpointError(
                f"{path}: some values are too large for {options.dtype or 'the dtype of the base'}"
                "; nothing was saved, merge with --dtype fp32"
            )
        if to in SUFFIXES:
            with write_errors(path):
                move_into_place(partial, path)
                write_vocabulary_beside(path, description)
        elif to == "gguf":
            path = write_gguf(partial, path, overwrite=options.overwrite).path
        else:
            layout = description.checkpoint.layout
            chosen = layout if layout in FOLDER_LAYOUTS else None
            path = export(partial, path, ExportOptions(layout=chosen)).path
    dtype = str(tensors["head.weight"].dtype).removeprefix("torch.")
    share = rounding.lost / max(rounding.changed, 1)
    return Merge(path, dtype, n_changed, difference, by_merging, rounding.largest, share)


def _target(description: Description, destination: str | Path, options: MergeOptions) -> str:
    """Return the format to write, after checking the options and the base."""
    checkpoint = description.checkpoint
    if options.to is not None and options.to not in TARGETS:
        raise InputError(f"to is {options.to!r}, expected one of {', '.join(TARGETS)}")
    if options.dtype is not None and options.dtype not in DTYPES:
        raise InputError(f"dtype is {options.dtype!r}, expected one of {', '.join(DTYPES)}")
    if is_folded(checkpoint) or (checkpoint.strategy is not None and not checkpoint.is_packed):
        raise CheckpointError(
            f"{checkpoint.path}: this file was converted for the strategy {checkpoint.strategy}; "
            "merge into the original checkpoint, and convert the result"
        )
    ending = Path(destination).suffix
    named = next((to for to, suffix in SUFFIXES.items() if suffix == ending), None)
    if options.to is not None or named is not None:
        return options.to or str(named)
    if checkpoint.layout in FOLDER_LAYOUTS:
        return "hf"
    return "pth" if checkpoint.path.suffix in (".pth", ".bin") else "safetensors"


def _beside(description: Description, adapter: Adapter) -> Model:
    """Load the base in float32, with the changes of its matrices beside them, not merged.

    Changes of other tensors, which are not the matrices of a product, are merged.
    """
    with torch.device("meta"):
        network = GENERATIONS[description.config.generation].network(description.config)
    linear = {f"{name}.weight" for name, one in network.named_modules() if isinstance(one, Linear)}
    inside = {name: one for name, one in adapter.changes.items() if name not in linear}
    merged = with_adapter(description, replace(adapter, changes=inside))
    model = build_model(merged, strategy_for(description, "cpu fp32"), engine="torch")
    assert isinstance(model.network, torch.nn.Module)
    for name in linear & adapter.changes.keys():
        module = model.network.get_submodule(name.removesuffix(".weight"))
        assert isinstance(module, Linear)
        module.product = _product(adapter.changes[name])
    return model


def _product(change: Change) -> Callable[..., Tensor]:
    """Return the product of a Linear with a change; everything is float32."""
    return lambda x, weight, *_: change.product(x, weight)


def _rounded(
    base: Description, merged: Description, extra: Mapping[str, Tensor], dtype: str | None
) -> tuple[dict[str, Tensor], int, _Rounding]:
    """Return the tensors to write, the number of changed ones, and the effect of rounding.

    Tuned states stay float32.
    """
    rounding, tensors, n_changed = _Rounding(), {}, len(extra)
    for name in base.checkpoint:
        if name in extra:
            continue
        before, exact = base.checkpoint[name], merged.checkpoint[name]
        tensors[name] = exact.to(DTYPES[dtype] if dtype else base.checkpoint.dtypes[name])
        if exact is not before and not torch.equal(exact, before.float()):
            n_changed += 1
            rounding.add(before, exact, tensors[name])
    return {**tensors, **extra}, n_changed, rounding


def _reloaded(path: Path, tensors: Mapping[str, Tensor]) -> Model:
    """Load a written file in float32, after checking that it contains the tensors."""
    written = describe(path)
    found = written.checkpoint
    differing = [
        name
        for name, tensor in tensors.items()
        if name not in found or not torch.equal(found[name], tensor)
    ]
    check_equal(path, differing)
    return build_model(written, strategy_for(written, "cpu fp32"), engine="torch")


def _logits(model: Model, state: State | None = None) -> Tensor:
    """Return the logits after each of some arbitrary tokens."""
    return model.forward(arbitrary_ids(model), state, all_logits=True)[0]


def _difference(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).abs().max())


def _check_merged(difference: float, expected: Tensor, name: str) -> None:
    """Raise a CheckpointError if merging in float32 changes logits by more than rounding."""
    if not difference <= LIMIT * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"{name}: the logits of the merged model differ by {difference:.3g} from those of base "
            "and adapter, more than rounding explains; nothing was saved. The values of the "
            "adapter may be too large; check it before merging"
        )
