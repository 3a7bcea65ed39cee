"""Prompts that are being read: piece by piece, beside others that speak, each prefix only once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from wkv.batching.request import Ticket
from wkv.batching.state_cache import StateCache
from wkv.inference.model import TOKENS_AT_ONCE, Model
from wkv.models.state import State

KEEP_EVERY = 2048
"""Tokens of a long prompt after which its state is kept whatever stands there."""

WORTH_KEEPING = 64
"""A state is not kept for fewer tokens than this beyond the last one: they are read as fast."""

WORTH_WAITING = 32
"""A prompt waits for another that reads so many tokens, or more, which it would read as well."""


@dataclass(eq=False)
class Reading:
    """A prompt on its way.

    Attributes:
        ticket: whose it is.
        position: ids that were read.
        state: after them; None at the beginning.
        cached: ids that were not read because the cache knew the state after them.
        stops_at: positions at which states are kept, the end of the prompt last.
        kept: the last position at which one was kept.
        ahead: another reading whose state at `awaited` serves this one too.
    """

    ticket: Ticket
    position: int = 0
    state: State | None = None
    cached: int = 0
    stops_at: list[int] = field(default_factory=list)
    kept: int = 0
    ahead: "Reading | None" = None
    awaited: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole prompt."""
        return self.ticket.request.ids

    @property
    def is_done(self) -> bool:
        """Whether all was read."""
        return self.position == len(self.ids)

    def stop_at(self, position: int) -> None:
        """Keep a state at a position that is still to come."""
        if self.position < position and position not in self.stops_at:
            self.stops_at = sorted([*self.stops_at, position])


class Readings:
    """The prompts that are being read, which take turns.

    Attributes:
        active: all of them; the next one's turn is first.
    """

    def __init__(self, model: Model, cache: StateCache) -> None:
        self.active: list[Reading] = []
        self._model = model
        self._cache = cache

    def add(self, ticket: Ticket) -> None:
        """Begin to read a prompt, or wait for one that begins with the same ids."""
        reading = Reading(ticket, state=ticket.request.start)
        self._begin(reading)
        self.active.append(reading)

    def drop(self, reading: Reading) -> None:
        """Give a prompt up; what was read of it serves those that wait for it."""
        self.active.remove(reading)
        if reading.state is not None and reading.position - reading.kept >= WORTH_KEEPING:
            self._keep(reading)

    def step(self, budget: int) -> list[Reading]:
        """Read at most about `budget` tokens of one or several prompts; returns whose turn it was.

        Those that are done remain among the active ones until they are taken away.

        Raises:
            Exception: whatever the model raises; nothing has changed then.
        """
        for reading in self.active:
            if reading.ahead is not None and self._is_over(reading.ahead, reading.awaited):
                self._begin(reading)
        chosen, counts = self._chosen(min(budget, TOKENS_AT_ONCE))
        unread = [place for place, count in enumerate(counts) if count]
        if unread:
            self._read([chosen[place] for place in unread], [counts[place] for place in unread])
        for reading in chosen:  # they go to the end of the line
            self.active.remove(reading)
            self.active.append(reading)
        return chosen

    def _chosen(self, budget: int) -> tuple[list[Reading], list[int]]:
        """Whose turn it is, and how many tokens of each are read; about equally many."""
        chosen: list[Reading] = []
        counts: list[int] = []
        for reading in self.active:
            if reading.ahead is not None:
                continue
            count = 0 if reading.is_done else reading.stops_at[0] - reading.position
            count = min(count, max(counts, default=budget) or budget)
            if chosen and (len(chosen) + 1) * max(*counts, count) > budget:
                continue
            chosen.append(reading)
            counts.append(count)
        return chosen, counts

    def _read(self, readings: Sequence[Reading], counts: Sequence[int]) -> None:
        """Pass the next `counts` tokens of each prompt through the model, as one batch."""
        width = max(counts)
        rows = [
            [*reading.ids[reading.position : reading.position + count], *[0] * (width - count)]
            for reading, count in zip(readings, counts, strict=True)
        ]
        states = [reading.state or self._model.new_state() for reading in readings]
        state = State.stack(states) if len(states) > 1 else states[0]
        _, state = self._model.forward(torch.tensor(rows), state, lengths=counts)
        for place, (reading, count) in enumerate(zip(readings, counts, strict=True)):
            reading.state = state.rows([place]) if len(readings) > 1 else state
            reading.position += count
            if reading.stops_at[0] == reading.position:
                del reading.stops_at[0]
                self._keep(reading)

    def _begin(self, reading: Reading) -> None:
        """Find where to go on, and whom to wait for."""
        request = reading.ticket.request
        reading.ahead = None
        end = len(request.ids)
        common = 0
        if request.keeps:
            # The last token of what was written may not have been read.
            places = [place - lacks for place in (*request.borders, end) for lacks in (0, 1)]
            found = self._cache.find(request.tenant, request.ids, places)
            if found.position > reading.position:
                reading.position, reading.state = found.position, found.state
                reading.cached = reading.kept = found.position
            common = found.common
            self._wait(reading)
        reading.stops_at = self._stops(reading, common)

    def _wait(self, reading: Reading) -> None:
        """Wait for another prompt that will have read a good part of this one."""
        request = reading.ticket.request
        for other in self.active:
            theirs = other.ticket.request
            if other is reading or other.ahead is not None or not theirs.keeps:
                continue
            if theirs.tenant != request.tenant:
                continue
            common = _common(theirs.ids, request.ids)
            if common > other.position and common - reading.position >= WORTH_WAITING:
                other.stop_at(common)
                reading.ahead, reading.awaited = other, common
                return

    def _is_over(self, ahead: Reading, awaited: int) -> bool:
        return ahead.position >= awaited or ahead not in self.active

    def _stops(self, reading: Reading, common: int) -> list[int]:
        """Where to keep states of what is still to be read: not too near to each other."""
        request = reading.ticket.request
        end = len(request.ids)
        if not request.keeps:
            return [end] if reading.position < end else []
        wanted = {common, *request.borders, *range(KEEP_EVERY, end, KEEP_EVERY)}
        stops, last = [], reading.position
        for position in sorted(wanted):
            if position - last >= WORTH_KEEPING and position < end:
                stops.append(position)
                last = position
        return [*stops, end] if reading.position < end else []

    def _keep(self, reading: Reading) -> None:
        request = reading.ticket.request
        if request.keeps and reading.state is not None:
            self._cache.put(request.tenant, reading.ids[: reading.position], reading.state)
            reading.kept = reading.position


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(i for i in range(length) if first[i] != second[i])
