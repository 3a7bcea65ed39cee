"""The time of a pass by its number of rows."""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median

TABLES: dict[str, dict[int, float]] = {
    "fp32": {1: 1.0, 2: 1.18, 3: 1.3, 4: 1.4, 5: 1.5, 6: 1.6, 8: 1.85, 12: 2.35, 16: 2.7},
    "fp16": {1: 1.0, 2: 1.15, 3: 1.22, 4: 1.3, 5: 1.6, 6: 1.7, 8: 2.1, 12: 2.6, 16: 3.2},
    "bf16": {1: 1.0, 2: 1.15, 3: 1.22, 4: 1.3, 5: 1.5, 6: 1.6, 8: 1.9, 12: 2.3, 16: 2.8},
    "int8": {1: 1.0, 2: 1.12, 3: 1.2, 4: 1.35, 5: 1.65, 6: 1.75, 8: 1.9, 12: 2.2, 16: 2.5},
    "int4": {1: 1.0, 2: 1.18, 3: 1.32, 4: 1.45, 5: 1.85, 6: 1.92, 8: 2.25, 12: 2.65, 16: 3.1},
}
"""Time of a pass by its rows, relative to one row; measured with sparse 0.4B and 1.5B models."""

SAMPLES = 15
"""Passes of each size whose median counts."""

MIN_SAMPLES = 3

MAX_DEVIATION = 2.0
"""A measured cost is trusted up to this factor from the table, as a busy machine distorts it."""


class PassCosts:
    """Cost of a pass by its number of rows: a table at first, then the measured passes.

    Costs are seconds once passes of any size were measured, and multiples of one row before. Only
    ratios of costs matter.
    """

    def __init__(self, table: Mapping[int, float], *, is_fixed: bool = False) -> None:
        """Begin with a table.

        Args:
            table: relative cost by number of rows, with at least two entries, from 1 on.
            is_fixed: ignore measurements, so that decisions can be repeated exactly.
        """
        self._rows = sorted(table)
        self._table = dict(table)
        self._is_fixed = is_fixed
        self._seconds: dict[int, deque[float]] = {}
        self._medians: dict[int, float] = {}
        self._scale = 1.0

    @property
    def is_measured(self) -> bool:
        """Whether costs are seconds."""
        return bool(self._medians)

    def record(self, rows: int, seconds: float) -> None:
        """Add the measured time of a pass."""
        if self._is_fixed:
            return
        measured = self._seconds.setdefault(rows, deque(maxlen=SAMPLES))
        measured.append(seconds)
        if len(measured) < MIN_SAMPLES:
            return
        self._medians[rows] = median(measured)
        # Passes of the usual size tell how fast this machine is; others follow the table until
        # they are measured themselves.
        usual = max(self._medians, key=lambda rows: len(self._seconds[rows]))
        self._scale = self._medians[usual] / self._from_table(usual)

    def of(self, rows: int) -> float:
        """Return the cost of a pass of so many rows."""
        expected = self._from_table(rows) * self._scale
        if rows not in self._medians:
            return expected
        low, high = expected / MAX_DEVIATION, expected * MAX_DEVIATION
        return min(max(self._medians[rows], low), high)

    def _from_table(self, rows: int) -> float:
        """Return the table's cost; between entries and beyond the last one it is linear."""
        if rows in self._table:
            return self._table[rows]
        at = min(max(bisect_left(self._rows, rows), 1), len(self._rows) - 1)
        low, high = self._rows[at - 1], self._rows[at]
        slope = (self._table[high] - self._table[low]) / (high - low)
        return self._table[low] + slope * (rows - low)


class PassClock:
    """Measures passes for their costs; the rewind after a pass is part of it."""

    def __init__(self, costs: PassCosts) -> None:
        self._costs = costs
        self._last: tuple[int, float] | None = None  # rows and seconds of a pass

    @contextmanager
    def read(self, rows: int) -> Iterator[None]:
        """Measure a pass of so many rows; `rewind` must follow before the next one."""
        begun = time.perf_counter()
        yield
        self._last = rows, time.perf_counter() - begun

    @contextmanager
    def rewind(self) -> Iterator[None]:
        """Measure the rewind after a pass, if there was one, and record both."""
        begun = time.perf_counter()
        yield
        if self._last is not None:
            rows, seconds = self._last
            self._costs.record(rows, seconds + time.perf_counter() - begun)
            self._last = None
