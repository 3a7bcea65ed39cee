"""What changed where an exported directory was written anew."""

import json
from pathlib import Path
from typing import Any

from wkv.version import TESTED_TRANSFORMERS

SHORT = 60
"""Values up to this many characters are shown, longer ones only named."""


def changes(old: Path, new: Path) -> tuple[str, ...]:
    """List the differences between two exports of one model, one line for each file or field.

    Args:
        old: the directory that was exported earlier.
        new: the directory that was made from it.

    Returns:
        Code, configuration and template; weights, card and vocabulary are left out.
    """
    found: list[str] = []
    for file in sorted(new.iterdir()):
        before = old / file.name
        if file.suffix == ".py":
            if not before.is_file() or before.read_bytes() != file.read_bytes():
                oldest, newest = TESTED_TRANSFORMERS
                found.append(f"{file.name}: renewed, for transformers {oldest} to {newest}")
        elif file.suffix == ".jinja":
            if not before.is_file() or before.read_bytes() != file.read_bytes():
                found.append(f"{file.name}: renewed")
        elif file.suffix == ".json" and not file.name.endswith(".index.json"):
            found += [f"{file.name}: {change}" for change in _changed_fields(before, file)]
    return tuple(found)


def _changed_fields(before: Path, after: Path) -> list[str]:
    """The top-level fields of a JSON file that have another value than before."""
    if not before.is_file():
        return ["added"]
    try:
        old: Any = json.loads(before.read_bytes())
    except ValueError:
        return ["renewed, it was damaged"]
    new: Any = json.loads(after.read_bytes())
    if not isinstance(old, dict) or not isinstance(new, dict):
        return ["renewed"] if old != new else []
    found = []
    for key in [*new, *(key for key in old if key not in new)]:
        if old.get(key) == new.get(key):
            continue
        values = [json.dumps(fields.get(key), ensure_ascii=False) for fields in (old, new)]
        shown = " -> ".join(values)
        found.append(f"{key} {shown}" if max(map(len, values)) <= SHORT else f"{key} renewed")
    return found
