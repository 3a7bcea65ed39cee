"""A file of results per document, with which an interrupted evaluation can be resumed.

It consists of JSON lines: a header that describes the evaluation, then one line per document, in
their order, with a log probability and a boolean (correct or not) for each model. Floats are
written with full precision.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wkv.errors import InputError
from wkv.evaluate.scoring import Score
from wkv.files import write_errors

MARK = "wkv eval"
"""The key of the header, which identifies a file as a result file."""

Row = tuple[Score, ...]
"""The scores of one document, one for each model."""


class ResultFile:
    """The results of one evaluation in a file.

    Attributes:
        path: the file; it is created if it does not exist.
        header: the properties that distinguish this evaluation from others, as JSON values.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open or create the file; an existing file must have the same header.

        Raises:
            InputError: if it is not a result file, belongs to another evaluation (the message names
                the difference), or cannot be read or written.
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
            raise InputError(f"{path}: the results cannot be saved there ({error})") from error
        self._compare(first)

    def resume(self, documents: int, window: int) -> list[Row]:
        """Return the stored results for an evaluation of so many documents in windows.

        Results after the last complete window are removed from the file, so that the remaining
        documents are batched as in an uninterrupted run. If the file has results for all documents,
        it is not changed.
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
        """Append the results of the next documents to the file."""
        with write_errors(self.path, InputError), self.path.open("ab") as file:
            for row in rows:
                self._count += 1
                entry = {
                    "document": self._count,
                    "log_probability": [score.log_probability for score in row],
                    "correct": [score.is_greedy for score in row],
                }
                file.write(_line(entry))

    def _compare(self, first: bytes) -> None:
        """Raise an InputError unless the first line of the file is this evaluation's header."""
        entry = _entry(first)
        found = entry.get(MARK) if isinstance(entry, dict) else None
        if not isinstance(found, dict):
            raise InputError(f"{self.path}: this is not a result file of wkv eval; name a new file")
        for name in dict.fromkeys((*self.header, *found)):
            ours, theirs = self.header.get(name), found.get(name)
            if ours != theirs:
                raise InputError(
                    f"{self.path}: these are results of another evaluation: {name} is {theirs} "
                    f"there and {ours} now; use the same options as before, or name another file"
                )

    def _row(self, line: bytes, number: int) -> Row | None:
        """Return the scores of a line, or None if the line is incomplete."""
        entry = _entry(line) if line.endswith(b"\n") else None
        if not isinstance(entry, dict) or entry.get("document") != number:
            return None
        try:
            pairs = zip(entry["log_probability"], entry["correct"], strict=True)
            return tuple(Score(float(lp), bool(correct)) for lp, correct in pairs)
        except (KeyError, TypeError, ValueError):
            return None


def _entry(line: bytes) -> Any:
    """Parse a line, and return None if it is not valid JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _line(entry: Mapping[str, Any]) -> bytes:
    """Format an entry as a line."""
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
