"""Write an adapter as a folder of peft, with the module names of our Hugging Face export.

    adapter_model.safetensors   base_model.model.MODULE.lora_A.weight (r, in), .lora_B.weight
                                (out, r), .lora_magnitude_vector (out), .miss_block (r, out), and
                                whole tensors of the modules in `modules_to_save`
    adapter_config.json         method, rank, alpha and modules, as peft writes them
    wkv.json                    the identity of the base model, and notes of the writer

peft, TRL and llama.cpp's converter read the first two. `wkv` refuses the folder for another base
model than that of `wkv.json`.

Source: huggingface/peft, `save_and_load.py`, `tuners/lora/config.py` and `tuners/miss/config.py`.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wkv.adapters.changes import Change, LowRank, Miss, Replaced
from wkv.adapters.scaling import CONFIG
from wkv.checkpoint.layouts import FLA7, HUB
from wkv.checkpoint.layouts.rules import SAME, TRANSPOSED, Conversion, Rule
from wkv.errors import CheckpointError
from wkv.files import atomic_write, read_text

WEIGHTS, NOTES = "adapter_model.safetensors", "wkv.json"

PREFIX = "base_model.model."


@dataclass(frozen=True)
class AdapterBase:
    """The base model of an adapter, and notes that are stored with the adapter.

    Attributes:
        generation: "4" to "7a".
        identity: the identity of the base model, see `wkv.inference.describe.identity`; "" if it
            is unknown.
        name: the path or hub name of the base model's Hugging Face directory, for peft.
        notes: further fields of wkv.json.
    """

    generation: str
    identity: str
    name: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


def write_peft_folder(path: Path, changes: Mapping[str, Change], base: AdapterBase) -> None:
    """Write a folder of peft, which is complete or not there at all; it must not exist yet.

    Args:
        path: the folder.
        changes: official tensor name to change; all are low-rank, or all are MiSS, besides
            replaced tensors.
        base: the model that was tuned.

    Raises:
        CheckpointError: if peft has no form for a change, or the folder cannot be written.
    """
    tensors, config = peft_form(changes, base)
    notes = {"identity": base.identity, "generation": base.generation, **base.notes}

    def write(folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        for name, fields in ((CONFIG, config), (NOTES, notes)):
            text = json.dumps(fields, indent=2, ensure_ascii=False)
            (folder / name).write_text(f"{text}\n", encoding="utf-8")

    if path.exists():
        raise CheckpointError(f"{path} exists already; give another folder for the adapter")
    atomic_write(path, write)


def peft_form(
    changes: Mapping[str, Change], base: AdapterBase
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the configuration of an adapter in the form of peft.

    Raises:
        CheckpointError: if peft has no form for a change.
    """
    rules = FLA7 if base.generation.startswith("7") else HUB
    tensors: dict[str, Tensor] = {}
    found: dict[str, LowRank | Miss] = {}
    saved: set[str] = set()
    for name, change in changes.items():
        foreign, conversion = _foreign(name, rules)
        if not foreign.endswith((".weight", ".bias")):
            raise _no_form(name, "a parameter that is not a module of its own")
        if isinstance(change, Replaced):
            tensors[PREFIX + foreign] = _stored(conversion.inverse(change.value))
            saved.add(foreign.rpartition(".")[0])
            continue
        if conversion is TRANSPOSED:
            change = _transposed(name, change)
        if not isinstance(change, LowRank | Miss):
            raise _no_form(name, type(change).__name__)
        module = foreign.removesuffix(".weight")
        found[module] = change
        for part, tensor in _parts(change).items():
            tensors[f"{PREFIX}{module}.{part}"] = _stored(tensor)
    return tensors, _config(found, saved, base)


def base_identity(path: Path) -> str | None:
    """Return the identity of the base model that a folder of ours names, or None without one.

    Raises:
        CheckpointError: if wkv.json is damaged.
    """
    return read_notes(path).get("identity") or None


def read_notes(path: Path) -> dict[str, Any]:
    """Return the fields of the wkv.json beside an adapter, which are none without the file.

    Raises:
        CheckpointError: if the file is damaged, or contains no identity.
    """
    file = (path if path.is_dir() else path.parent) / NOTES
    if not file.is_file():
        return {}
    try:
        notes: dict[str, Any] = json.loads(read_text(file))
        if not isinstance(notes["identity"], str):
            raise TypeError("the identity is not a text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: the file is damaged ({error}); restore it, or remove it to use the adapter "
            "without checking its base model"
        ) from error
    return notes


def _foreign(name: str, rules: tuple[Rule, ...]) -> tuple[str, Conversion]:
    """Return the name of a tensor in the export, and the conversion of its values."""
    for rule in rules:
        renamed = rule.to_foreign(name)
        if renamed is not None:
            return renamed, rule.conversion
    return name, SAME


def _transposed(name: str, change: Change) -> LowRank:
    """Return a low-rank change of a matrix that the export stores transposed."""
    if not isinstance(change, LowRank) or change.magnitude is not None:
        raise _no_form(name, f"{type(change).__name__} of a matrix that the export transposes")
    return LowRank(change.B.t(), change.A.t(), change.scale)


def _parts(change: LowRank | Miss) -> dict[str, Tensor]:
    """Return the tensors of a change by the names that peft gives them."""
    if isinstance(change, Miss):
        return {"miss_block": change.D}
    parts = {"lora_A.weight": change.A, "lora_B.weight": change.B}
    if change.magnitude is not None:
        parts["lora_magnitude_vector"] = change.magnitude
    return parts


def _stored(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous().clone()


def _config(
    found: Mapping[str, LowRank | Miss], saved: set[str], base: AdapterBase
) -> dict[str, Any]:
    """Return the fields of adapter_config.json."""
    ranks = {name: len(one.D if isinstance(one, Miss) else one.A) for name, one in found.items()}
    rank = _usual(ranks)
    is_miss = [isinstance(change, Miss) for change in found.values()]
    with_norms = [isinstance(one, LowRank) and one.magnitude is not None for one in found.values()]
    if len(set(is_miss)) != 1 or len(set(with_norms)) != 1:
        raise CheckpointError(
            "an adapter of peft has one method for all matrices, and these changes have several "
            "or none; write them as separate adapters, or merge them"
        )
    fields = {
        "base_model_name_or_path": base.name or None,
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "bias": "none",
        "r": rank,
        "target_modules": sorted(found),
        "modules_to_save": sorted(saved) or None,
    }
    if is_miss[0]:
        if set(ranks.values()) != {rank}:
            raise CheckpointError("MiSS in peft has one rank for all matrices; merge this adapter")
        return fields | {"peft_type": "MISS", "miss_dropout": 0.0, "init_weights": True}
    alphas = {
        name: round(one.scale * ranks[name], 6)
        for name, one in found.items()
        if isinstance(one, LowRank)
    }
    alpha = _usual(alphas)
    return fields | {
        "peft_type": "LORA",
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": with_norms[0],
        "init_lora_weights": True,
        "fan_in_fan_out": False,
        "rank_pattern": {name: one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {name: one for name, one in alphas.items() if one != alpha},
    }


def _usual(values: Mapping[str, Any]) -> Any:
    """Return the most frequent value, or 0 without values."""
    return Counter(values.values()).most_common(1)[0][0] if values else 0


def _no_form(name: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"the change of {name} is {found}, for which peft has no form; merge it with wkv merge"
    )
