"""A file of results per document, so that a measurement that was cut off can go on.

JSON lines: a header that says what was measured and how, then a line for each document, in the
order of the documents, with a log probability and a truth value for each model. Floats are written
so that they are read back exactly.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wkv.errors import InputError
from wkv.evaluate.scoring import Score

MARK = "wkv eval"
"""The name of the header, by which a result file is known."""

Row = tuple[Score, ...]
"""The scores of one document, one for each model."""


class ResultFile:
    """Results of one measurement.

    Attributes:
        path: the file; it need not exist yet.
        header: what tells this measurement from others; its values are what JSON knows.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Name the file; one that is there must have the same header.

        Raises:
            InputError: if it is no result file or one of another measurement, and says how they
                differ, or if it cannot be read or written.
        """
        self.path = path
        self.header = json.loads(json.dumps(header))
        self._count = 0
        try:
            with path.open("a+b") as file:
                file.seek(0)
                first = file.readline()
                if not first:
                    file.write(_line({MARK: self.header}))
                    return
        except OSError as error:
            raise InputError(f"{path}: the results cannot be kept there ({error})") from error
        self._compare(first)

    def resume(self, documents: int, window: int) -> list[Row]:
        """The results that hold for a measurement of so many documents, taken window by window.

        Whole windows are kept, and what comes after them is cut off the file: so what is measured
        next is batched as it would have been without a break. If the file has enough for all
        documents, it stays as it is.
        """
        rows: list[Row] = []
        ends: list[int] = []
        with self.path.open("r+b") as file:
            ends.append(len(file.readline()))
            for line in file:
                row = self._row(line, len(rows) + 1)
                if row is None:
                    break
                rows.append(row)
                ends.append(ends[-1] + len(line))
            self._count = len(rows)
            if self._count < documents:
                self._count -= self._count % window
                file.truncate(ends[self._count])
        return rows[: min(self._count, documents)]

    def append(self, rows: Iterable[Row]) -> None:
        """Write the results of the documents that follow those in the file."""
        with self.path.open("ab") as file:
            for row in rows:
                self._count += 1
                entry = {
                    "document": self._count,
                    "log_probability": [score.log_probability for score in row],
                    "correct": [score.is_greedy for score in row],
                }
                file.write(_line(entry))

    def _compare(self, first: bytes) -> None:
        """Raise unless the first line of the file is this measurement's header."""
        entry = _entry(first)
        found = entry.get(MARK) if isinstance(entry, dict) else None
        if not isinstance(found, dict):
            raise InputError(
                f"{self.path}: this is no result file of wkv eval; name another file, which need "
                "not exist"
            )
        for name in dict.fromkeys((*self.header, *found)):
            ours, theirs = self.header.get(name), found.get(name)
            if ours != theirs:
                raise InputError(
                    f"{self.path}: these are results of another measurement: {name} is {theirs} "
                    f"there and {ours} now; measure as before, or name another file"
                )

    def _row(self, line: bytes, number: int) -> Row | None:
        """The scores of a line; None if it is not whole."""
        entry = _entry(line) if line.endswith(b"\n") else None
        if not isinstance(entry, dict) or entry.get("document") != number:
            return None
        try:
            pairs = zip(entry["log_probability"], entry["correct"], strict=True)
            return tuple(Score(float(lp), bool(correct)) for lp, correct in pairs)
        except (KeyError, TypeError, ValueError):
            return None


def _entry(line: bytes) -> Any:
    """What a line holds; None if it is no JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _line(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line."""
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
