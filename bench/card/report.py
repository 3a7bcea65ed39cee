"""Sections with deadlines, checks, and the file of results."""

import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wkv.files import atomic_write

MARGIN = 1.5
"""A section stops early if it takes longer than this multiple of the time planned for it."""


@dataclass
class Card:
    """The run on one card.

    Attributes:
        folder: where card.json lies; it is written after each section.
        device: the device; "cpu" in a dry run.
        dry: whether everything is tiny and runs in Triton's interpreter.
        seconds: the limit of the whole run.
        generations: the generations that the section "parity" checks.
        facts: results of the section "card" that others use, such as the bandwidth.
        results: the values of each section.
        failures: the checks that failed.
    """

    folder: Path
    device: torch.device
    dry: bool
    seconds: float
    generations: Sequence[str] = ()
    facts: dict[str, float] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _deadline: float = 0.0
    _section: str = ""

    @property
    def left(self) -> float:
        """Seconds until the end of the run."""
        return self._began + self.seconds - time.monotonic()

    @property
    def is_late(self) -> bool:
        """True if the current section has taken longer than MARGIN times its planned time."""
        return time.monotonic() > self._deadline

    def section(self, name: str, seconds: float, run: Callable[["Card"], None]) -> None:
        """Run a section, print its time, and write the results so far.

        It is skipped if less than its time is left, except in a dry run, whose speed means nothing.
        An error in it is a failed check.
        """
        print(f"\n== {name}")
        if not self.dry and self.left < seconds:
            self.note(f"skipped: {self.left:.0f} s are left, it needs {seconds:.0f} s")
            self.failures.append(f"{name}: skipped for lack of time")
            return
        begun = time.monotonic()
        self._section = name
        self._deadline = float("inf") if self.dry else begun + MARGIN * seconds
        values = self.results[name] = {"rows": [], "notes": []}
        try:
            run(self)
        except Exception:
            self.check("runs to its end", False, traceback.format_exc(limit=-3))
        values["seconds"] = round(time.monotonic() - begun, 1)
        print(f"-- {name}: {values['seconds']} s")
        self.write()

    def check(self, name: str, passed: bool, detail: str = "") -> None:
        """Record a check of the current section; failures are printed."""
        if not passed:
            self.failures.append(f"{self._section}: {name}: {detail}")
            print(f"FAILED {name}: {detail}")
        values = self.results[self._section]
        values["checks"] = values.get("checks", 0) + 1

    def row(self, **values: Any) -> None:
        """Record and print one row of the current section's table."""
        self.results[self._section]["rows"].append(values)
        print("  " + "  ".join(f"{name} {_short(value)}" for name, value in values.items()))

    def note(self, text: str) -> None:
        """Print a remark, and record it if a section runs."""
        print(f"  {text}")
        if self._section in self.results:
            self.results[self._section]["notes"].append(text)

    def write(self) -> None:
        """Write card.json."""
        content = {"device": str(self.device), "dry": self.dry, "facts": self.facts}
        content |= {"sections": self.results, "failures": self.failures}
        text = json.dumps(content, indent=1) + "\n"
        atomic_write(self.folder / "card.json", lambda path: path.write_text(text))

    def watch(self) -> threading.Timer:
        """End the process when its time is over, even if a kernel hangs."""

        def end() -> None:
            self.failures.append(f"{self._section}: stopped after {self.seconds:.0f} s")
            self.write()
            print(f"stopped after {self.seconds:.0f} s in {self._section}", flush=True)
            os._exit(1)

        timer = threading.Timer(self.seconds, end)
        timer.daemon = True
        timer.start()
        return timer


def table(rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns."""
    texts = [[_short(value) for value in row] for row in rows]
    if not texts:
        return
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
