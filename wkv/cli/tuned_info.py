"""Show adapters and states, and the model that they fit; a part of `wkv info`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wkv.cli.machine import Finding

if TYPE_CHECKING:
    from wkv.adapters.open import Adapter
    from wkv.adapters.summary import Summary
    from wkv.inference.describe import Description

Facts = dict[str, Any]

CONFIG = "adapter_config.json"
TUNED_FILES = (CONFIG, f"*/{CONFIG}", f"*/*/{CONFIG}", "*.safetensors", "*/state.safetensors")
"""Where `wkv finetune` and other programs write adapters and states."""

MOST_SHOWN = 8


def show_tuned(path: str | Path, args: argparse.Namespace) -> bool:
    """Print the properties of an adapter or a state; returns False if the file is neither."""
    from wkv.adapters.open import is_adapter
    from wkv.adapters.summary import summarize_adapter, summarize_state
    from wkv.adapters.tuned_state import is_state

    if is_state(path):
        facts = _facts(path, summarize_state(path))
    elif is_adapter(path):
        facts = _facts(path, summarize_adapter(_without_base(path, args.alpha), path))
    else:
        return False
    if args.json:
        print(json.dumps(facts))
    else:
        print_tuned(facts)
    return True


def fits(description: Description, args: argparse.Namespace) -> list[Facts]:
    """Return the properties of the adapters and states of the options, and what they do not fit."""
    from wkv.adapters.summary import summarize_adapter, summarize_state
    from wkv.adapters.tuned_state import read_tuned_state
    from wkv.errors import WKVError
    from wkv.inference.describe import adapter_for, identity
    from wkv.models.state import read_header

    found = []
    for path in args.adapter or ():
        try:
            adapter = adapter_for(description, path, args.alpha)
            facts = _facts(path, summarize_adapter(adapter, path)) | {"fits": "yes"}
        except WKVError as error:
            facts = {"file": path, "kind": "adapter", "fits": f"no: {error}"}
        found.append(facts)
    for path in args.state or ():
        try:
            facts = _facts(path, summarize_state(path)) | {"fits": "yes"}
            if read_tuned_state(path, description.config) is None:
                made_by, own = read_header(path).identity, identity(description)
                if made_by != own:
                    facts["fits"] = f"no: it belongs to the model {made_by}, and this is {own}"
        except WKVError as error:
            facts = {"file": path, "kind": "state", "fits": f"no: {error}"}
        found.append(facts)
    return found


def tuned_files() -> list[Finding]:
    """Report the adapters and states in the working folder, and the models that they fit."""
    from wkv.adapters.peft_folder import base_identity
    from wkv.adapters.tuned_state import is_state
    from wkv.errors import StateError
    from wkv.inference.describe import describe, identity
    from wkv.models.state import read_header

    names: dict[str | None, str] = {identity(describe()): "the built-in model"}
    found = []
    for path in sorted(path for pattern in TUNED_FILES for path in Path().glob(pattern)):
        if path.name == CONFIG:
            path, kind, base = path.parent, "adapter", base_identity(path.parent)
        elif is_state(path):
            kind = "state"
            try:
                base = read_header(path).identity
            except StateError:  # another program's, which names no model
                base = None
        else:
            continue
        fits = names.get(base, f"the model {base}" if base else "a model that it does not name")
        found.append(f"{path} ({kind}, for {fits})")
    if len(found) > MOST_SHOWN:
        found[MOST_SHOWN:] = [f"and {len(found) - MOST_SHOWN} more"]
    advice = "wkv info MODEL --adapter PATH --state FILE tells whether they fit a model"
    return [Finding("tuned", ", ".join(found), advice)] if found else []


def print_tuned(facts: Facts) -> None:
    """Print the properties of one adapter or state."""
    for name, value in facts.items():
        print(f"{name:12}{value}")


def _facts(path: str | Path, summary: Summary) -> Facts:
    return {"file": str(path), "kind": summary.kind, **summary.facts, **summary.notes}


def _without_base(path: str | Path, alpha: float | None) -> Adapter:
    """Open an adapter without its base model; without an alpha, its factors are shown as 1."""
    from wkv.adapters.open import open_adapter
    from wkv.errors import CheckpointError

    try:
        return open_adapter(path, None, alpha)
    except CheckpointError as error:
        if alpha is not None or "--alpha" not in str(error):
            raise
        return open_adapter(path, None, alpha=1.0)
