"""Describe the files of adapters and tuned states, with or without the model that was tuned."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from wkv.adapters.changes import Change, LowRank, Miss, Replaced
from wkv.adapters.open import Adapter
from wkv.adapters.peft_folder import read_notes
from wkv.adapters.tuned_state import open_tuned_state
from wkv.errors import StateError
from wkv.models.state import read_header, read_layers


@dataclass(frozen=True)
class Summary:
    """The properties of an adapter or a state.

    Attributes:
        kind: "adapter", "tuned state" or "state".
        facts: a name and a value for each property.
        notes: what the file says about its base model and its use.
    """

    kind: str
    facts: Mapping[str, str]
    notes: Mapping[str, str]


def summarize_adapter(adapter: Adapter, path: str | Path) -> Summary:
    """Return the methods, ranks and sizes of an adapter, and its notes."""
    counts: dict[str, int] = {}
    for change in adapter.changes.values():
        method = _method(change)
        counts[method] = counts.get(method, 0) + 1
    parts = [change.tensors() for change in adapter.changes.values()]
    numbers = sum(tensor.numel() for tensors in parts for tensor in tensors)
    layers = {name.split(".")[1] for name in adapter.changes if name.startswith("blocks.")}
    facts = {
        "changes": ", ".join(f"{count} tensors by {method}" for method, count in counts.items()),
        "layers": str(len(layers)),
        "numbers": f"{numbers:,}",
    }
    notes = {name: str(value) for name, value in read_notes(Path(path)).items()}
    return Summary("adapter", facts, notes)


def _method(change: Change) -> str:
    """Return the method of a change, with its rank and scale."""
    if isinstance(change, LowRank):
        name = "LoRA" if change.magnitude is None else "DoRA"
        return f"{name} of rank {len(change.A)} (scale {change.scale:g})"
    if isinstance(change, Miss):
        return f"MiSS of rank {len(change.D)}"
    return "replacement" if isinstance(change, Replaced) else type(change).__name__


def summarize_state(path: str | Path) -> Summary:
    """Return the sizes of a state, and its notes.

    Raises:
        StateError: if it cannot be read.
    """
    tuned = open_tuned_state(path)
    if tuned is not None:
        layers, heads, size, _ = tuned.wkv.shape
        facts = {"layers": str(layers), "heads": f"{heads} of {size}"}
        return Summary("tuned state", facts | {"values": _spread(tuned.wkv)}, {})
    header = read_header(path)
    found = read_layers(path)
    if not found:
        raise StateError(f"{path}: the state has no layers; save it again")
    facts = {"generation": f"RWKV-{header.generation}", "layers": str(len(found))}
    if found[0].wkv.dim() == 4:
        facts["heads"] = f"{found[0].wkv.shape[1]} of {found[0].wkv.shape[2]}"
    facts["values"] = _spread(torch.stack([layer.wkv for layer in found]))
    kind = "tuned state" if header.metadata.get("tuned") else "state"
    return Summary(kind, facts, {"identity": header.identity, **header.metadata})


def _spread(values: torch.Tensor) -> str:
    """Return the standard deviation and the largest value."""
    return f"standard deviation {float(values.std()):.3g}, largest {float(values.abs().max()):.3g}"
