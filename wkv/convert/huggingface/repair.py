"""The list of changes shown when an exported directory is exported again by a newer wkv."""

import json
from pathlib import Path
from typing import Any

from wkv.version import TESTED_TRANSFORMERS

SHORT = 60
"""Longest value, in characters, that is shown; for longer ones only the field is named."""


def changes(old: Path, new: Path) -> tuple[str, ...]:
    """List the differences between two exports of one model, one line for each file or field.

    Args:
        old: the directory that was exported earlier.
        new: the directory that was made from it.

    Returns:
        Changes of the code, the configuration and the chat template. Weights, model card and
        vocabulary are not compared.
    """
    found: list[str] = []
    for file in sorted(new.iterdir()):
        before = old / file.name
        if file.suffix in (".py", ".jinja"):
            if not before.is_file() or before.read_bytes() != file.read_bytes():
                versions = f", for transformers {' to '.join(TESTED_TRANSFORMERS)}"
                found.append(f"{file.name}: updated{versions if file.suffix == '.py' else ''}")
        elif file.suffix == ".json" and not file.name.endswith(".index.json"):
            found += [f"{file.name}: {change}" for change in _changed_fields(before, file)]
    return tuple(found)


def _changed_fields(before: Path, after: Path) -> list[str]:
    """Return the top-level fields of a JSON file whose values have changed."""
    if not before.is_file():
        return ["added"]
    try:
        old: Any = json.loads(before.read_bytes())
    except ValueError:
        return ["updated, it was damaged"]
    new: Any = json.loads(after.read_bytes())
    if not isinstance(old, dict) or not isinstance(new, dict):
        return ["updated"] if old != new else []
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) == new.get(key):
            continue
        values = [json.dumps(fields.get(key), ensure_ascii=False) for fields in (old, new)]
        shown = " -> ".join(values)
        found.append(f"{key} {shown}" if max(map(len, values)) <= SHORT else f"{key} updated")
    return found
