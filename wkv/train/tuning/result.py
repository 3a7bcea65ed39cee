"""Save what was tuned, and load it again for measuring."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wkv.adapters.changes import LowRank
from wkv.adapters.peft_folder import AdapterBase, write_peft_folder
from wkv.convert.checkpoint_file import unshared, write_vocabulary_beside
from wkv.errors import CheckpointError, TrainingError
from wkv.files import atomic_write
from wkv.inference.describe import Description, adapter_for, describe, identity, with_adapter
from wkv.inference.load import build_model, strategy_for
from wkv.inference.model import Model
from wkv.models.state import State
from wkv.train.tuning.methods import TunedModel
from wkv.train.tuning.options import TuningOptions

NAMES = {"state": "state.safetensors", "full": "model.safetensors"}
ADAPTER = "adapter"


def result_path(folder: Path, method: str) -> Path:
    """Return the path of the result of a method in the folder of a run."""
    return folder / NAMES.get(method, ADAPTER)


@dataclass(frozen=True)
class Saved:
    """A saved result, loaded again.

    Attributes:
        model: the tuned model; for a state, the base model.
        state: the tuned state, or None.
    """

    model: Model
    state: State | None = None

    def layers(self, batch: int) -> Any:
        """Return the state with which `batch` rows begin."""
        if self.state is None:
            return self.model.new_state(batch).layers
        return self.state.rows([0] * batch).layers


def save_result(
    tuned: TunedModel, description: Description, path: Path, notes: Mapping[str, str]
) -> None:
    """Write the tensors of a method; an earlier result in the folder is replaced.

    Args:
        tuned: the model and its trained tensors.
        description: the base model.
        path: a result of `result_path`.
        notes: how to use the result: `begins_with`, `ends_with` and `template`.

    Raises:
        TrainingError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if tuned.start is not None:
        layers = tuple(
            replace(layer, wkv=wkv.detach()[None].clone())
            for layer, wkv in zip(tuned.model.new_state().layers, tuned.start, strict=True)
        )
        model = tuned.model
        state = State(layers, (0,), model.config.generation, model.identity)
        state.save(path, {"tuned": "wkv finetune", **notes})
    elif tuned.changes:
        base = AdapterBase(
            description.config.generation,
            identity(description),
            str(description.checkpoint.path),
            dict(notes),
        )
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        try:
            write_peft_folder(path, tuned.changes, base)
        except CheckpointError as error:
            raise TrainingError(str(error)) from error
        shutil.rmtree(old, ignore_errors=True)
    else:
        _save_model(tuned, description, path)


def _save_model(tuned: TunedModel, description: Description, path: Path) -> None:
    """Write all tensors in the dtypes of the base, and its vocabulary."""
    from safetensors.torch import save_file

    stored = description.checkpoint
    new = dict(tuned.network.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name in stored:
        tensor = new[name].detach().cpu() if name in new else stored[name]
        tensors[name] = tensor.to(stored.dtypes[name]).reshape(stored.shapes[name])
    atomic_write(
        path,
        lambda file: save_file(unshared(tensors), file, metadata={"format": "pt"}),
        error_type=TrainingError,
    )
    write_vocabulary_beside(path, description)


def load_result(tuned: TunedModel, description: Description, path: Path, dtype: str) -> Saved:
    """Load a saved result from disk, on the engine "torch".

    Args:
        tuned: the model in memory; for a state its network is used.
        description: the base model.
        path: the saved result.
        dtype: a strategy such as "cpu fp32".
    """
    if tuned.start is not None:
        return Saved(tuned.model, State.load(path, tuned.model))
    if path.name == ADAPTER:
        found = with_adapter(description, adapter_for(description, path))
    else:
        found = describe(path)
    return Saved(build_model(found, strategy_for(found, dtype), engine="torch"))


def earlier_tensors(
    description: Description, model: Model, options: TuningOptions
) -> dict[str, Tensor]:
    """Return the tensors of an earlier result with which training begins, by their trained names.

    Raises:
        CheckpointError, StateError: if the file does not fit the model.
        TrainingError: if it has another method.
    """
    if options.from_path is None:
        return {}
    path = Path(options.from_path).expanduser()
    if options.method == "state":
        return {"start": torch.stack([layer.wkv[0] for layer in State.load(path, model).layers])}
    if options.method == "full":
        raise TrainingError("--from is for adapters and states; give the tuned model as MODEL")
    tensors: dict[str, Tensor] = {}
    for name, change in adapter_for(description, path).changes.items():
        module = name.removesuffix(".weight")
        if isinstance(change, LowRank) and change.scale != options.alpha / options.rank:
            raise TrainingError(
                f"--from has the scale {change.scale:g}, and --alpha {options.alpha:g} with --rank "
                f"{options.rank} is {options.alpha / options.rank:g}; give those of the earlier run"
            )
        for part in ("A", "B", "magnitude", "D"):
            tensor = getattr(change, part, None)
            if tensor is not None:
                tensors[f"{module}.{part}"] = tensor
    return tensors
