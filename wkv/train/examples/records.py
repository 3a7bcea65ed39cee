"""Read records (JSON objects) from JSON lines, a JSON array or Parquet, with their place."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wkv.errors import InputError, MissingExtraError, install_command
from wkv.files import read_text

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

NOT_JSON = re.compile(r'"(?:[^"\\]|\\.)*"|(-?\b(?:NaN|Infinity)\b)')
"""A string, or one of the numbers that Python writes and JSON does not have."""


@dataclass(frozen=True)
class Record:
    """A record of a file.

    Attributes:
        where: the file and the line, for messages.
        fields: its fields.
    """

    where: str
    fields: dict[str, Any]


def is_json(path: Path, text: str) -> bool:
    """Check whether a text consists of JSON objects, by its name and its first line."""
    first = next((line for line in text.split("\n") if line.strip()), "").lstrip()
    if path.suffix in JSON_SUFFIXES:
        return True
    if not first.startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(first if first.startswith("{") else text), dict | list)
    except (ValueError, RecursionError):
        return False


def read_json(path: Path, text: str) -> Iterator[Record]:
    """Yield the objects of JSON lines, or of one JSON array; blank lines are skipped.

    Raises:
        InputError: at text that is not JSON, NaN, or a value that is not an object; the message
            has the file, the line and the column.
    """
    if text.lstrip().startswith("["):
        values = _parsed(path, text, 1)
        for number, value in enumerate(values, 1):
            yield Record(f"{path}, entry {number}", _object(path, f"entry {number}", value))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            value = _parsed(path, line, number)
            yield Record(f"{path}, line {number}", _object(path, f"line {number}", value))


def read_json_file(path: Path) -> list[Record]:
    """Read all objects of a JSON file; see `read_json`."""
    return list(read_json(path, read_text(path)))


def read_parquet(path: Path) -> list[Record]:
    """Read the rows of a Parquet file.

    Raises:
        MissingExtraError: if pyarrow is not installed.
        InputError: if the file is damaged.
    """
    if find_spec("pyarrow") is None:
        raise MissingExtraError(
            f"{path}: reading Parquet requires pyarrow, which is not installed; run: "
            f"{install_command('parquet')}"
        )
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({error}); download or write it again"
        ) from error
    return [Record(f"{path}, row {number}", row) for number, row in enumerate(rows, 1)]


def _parsed(path: Path, text: str, line: int) -> Any:
    """Parse JSON that begins in a line of a file."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        begun = text.split("\n")[error.lineno - 1]
        has_quotes = "'" in begun[: error.colno + 1]
        advice = "write strings in double quotes" if has_quotes else "correct the line"
        raise InputError(
            f"{path}, line {at}, column {error.colno}: this is not JSON ({error.msg}); {advice}"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}, line {line}: the value is nested too deeply") from error
    for match in NOT_JSON.finditer(text):
        if match[1]:
            before = text[: match.start()]
            column = match.start() - (before.rfind("\n") + 1) + 1
            raise InputError(
                f"{path}, line {line + before.count(chr(10))}, column {column}: {match[1]} is not "
                "JSON; remove the record, or write null"
            )
    return value


def _object(path: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"{path}, {where}: found {str(value)[:40]!r}, expected an object such as "
            '{"text": "..."} or {"messages": [...]}'
        )
    return value
