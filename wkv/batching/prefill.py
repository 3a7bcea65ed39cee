"""The scheduler's prefill: prompts are read in chunks, and each shared prefix only once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from wkv.batching.request import Request, RequestHandle
from wkv.batching.state_cache import StateCache
from wkv.inference.model import TOKENS_AT_ONCE, Model
from wkv.inference.prefill import read_rows
from wkv.models.state import State

CACHE_INTERVAL = 2048
"""Tokens of a long prompt after which its state is cached, even within a message."""

MIN_CACHED_TOKENS = 64
"""A state is cached only if it is this many tokens beyond the last cached one."""

MIN_SHARED_TOKENS = 32
"""A prompt waits for another one that reads at least this many tokens of it."""


@dataclass(eq=False)
class PrefillJob:
    """A prompt that is being read.

    Attributes:
        handle: the request.
        position: number of ids that were read.
        state: the state after them; None at the beginning.
        cached: ids that were skipped because the cache had the state after them.
        stops_at: positions at which states are cached; the end of the prompt is the last one.
        cached_at: the last position at which a state was cached.
        waits_for: another job whose state at `awaited` serves this job too.
        awaited: position in `waits_for`.
    """

    handle: RequestHandle
    position: int = 0
    state: State | None = None
    cached: int = 0
    stops_at: list[int] = field(default_factory=list)
    cached_at: int = 0
    waits_for: "PrefillJob | None" = None
    awaited: int = 0

    @property
    def request(self) -> Request:
        """The request whose prompt is read."""
        return self.handle.request

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole prompt."""
        return self.request.ids

    @property
    def is_done(self) -> bool:
        """Whether the whole prompt was read."""
        return self.position == len(self.ids)

    def stop_at(self, position: int) -> None:
        """Cache a state at a position that was not reached yet."""
        if self.position < position and position not in self.stops_at:
            self.stops_at = sorted([*self.stops_at, position])


class PrefillQueue:
    """The prompts that are being read, in turn.

    Attributes:
        jobs: all jobs; the next one in turn comes first.
    """

    def __init__(self, model: Model, cache: StateCache) -> None:
        self.jobs: list[PrefillJob] = []
        self._model = model
        self._cache = cache

    def add(self, handle: RequestHandle) -> None:
        """Start to read a prompt, or wait for one that begins with the same ids."""
        job = PrefillJob(handle, state=handle.request.start)
        self._start(job)
        self.jobs.append(job)

    def drop(self, job: PrefillJob) -> None:
        """Remove a job; the part that was read serves the jobs that wait for it."""
        self.jobs.remove(job)
        if job.state is not None and job.position - job.cached_at >= MIN_CACHED_TOKENS:
            self._cache_state(job)

    def step(self, budget: int) -> list[PrefillJob]:
        """Read at most about `budget` tokens of one or several prompts.

        Returns:
            The chosen jobs. Finished jobs remain in `jobs` until the caller removes them.

        Raises:
            Exception: any exception of the model; nothing has changed then.
        """
        for job in self.jobs:
            other = job.waits_for
            if other is not None and (other.position >= job.awaited or other not in self.jobs):
                self._start(job)
        chosen, counts = self._choose(min(budget, TOKENS_AT_ONCE))
        unread = [place for place, count in enumerate(counts) if count]
        if unread:
            self._read([chosen[place] for place in unread], [counts[place] for place in unread])
        for job in chosen:  # they go to the end of the line
            self.jobs.remove(job)
            self.jobs.append(job)
        return chosen

    def _choose(self, budget: int) -> tuple[list[PrefillJob], list[int]]:
        """Choose jobs and how many tokens of each to read; the numbers are similar."""
        chosen: list[PrefillJob] = []
        counts: list[int] = []
        for job in self.jobs:
            if job.waits_for is not None:
                continue
            count = 0 if job.is_done else job.stops_at[0] - job.position
            count = min(count, max(counts, default=budget) or budget)
            if chosen and (len(chosen) + 1) * max(*counts, count) > budget:
                continue
            chosen.append(job)
            counts.append(count)
        return chosen, counts

    def _read(self, jobs: Sequence[PrefillJob], counts: Sequence[int]) -> None:
        """Read the next `counts` tokens of each prompt, as one batch."""
        rows = [
            job.ids[job.position : job.position + count]
            for job, count in zip(jobs, counts, strict=True)
        ]
        states = [job.state or self._model.new_state() for job in jobs]
        state = State.stack(states) if len(states) > 1 else states[0]
        state = read_rows(self._model, rows, state)
        for place, (job, count) in enumerate(zip(jobs, counts, strict=True)):
            job.state = state.rows([place]) if len(jobs) > 1 else state
            job.position += count
            if job.stops_at[0] == job.position:
                del job.stops_at[0]
                self._cache_state(job)

    def _start(self, job: PrefillJob) -> None:
        """Find the state to continue from, or the job to wait for."""
        request = job.request
        job.waits_for = None
        end = len(request.ids)
        common = 0
        if request.cache:
            # The state after a reply may lack the last token of the reply.
            boundaries = (*request.message_boundaries, end)
            positions = [boundary - lacks for boundary in boundaries for lacks in (0, 1)]
            found = self._cache.find(request.tenant, request.ids, positions)
            if found.position > job.position:
                job.position, job.state = found.position, found.state
                job.cached = job.cached_at = found.position
            common = found.common
            self._wait(job)
        job.stops_at = self._stops(job, common)

    def _wait(self, job: PrefillJob) -> None:
        """Wait for another job that will have read a large part of this prompt."""
        request = job.request
        for other in self.jobs:
            theirs = other.request
            if other is job or other.waits_for is not None or not theirs.cache:
                continue
            if theirs.tenant != request.tenant:
                continue
            common = _common(theirs.ids, request.ids)
            if common > other.position and common - job.position >= MIN_SHARED_TOKENS:
                other.stop_at(common)
                job.waits_for, job.awaited = other, common
                return

    def _stops(self, job: PrefillJob, common: int) -> list[int]:
        """Return the positions at which to cache states, at least MIN_CACHED_TOKENS apart."""
        request = job.request
        end = len(request.ids)
        if not request.cache:
            return [end] if job.position < end else []
        wanted = {common, *request.message_boundaries, *range(CACHE_INTERVAL, end, CACHE_INTERVAL)}
        stops, last = [], job.position
        for position in sorted(wanted):
            if position - last >= MIN_CACHED_TOKENS and position < end:
                stops.append(position)
                last = position
        return [*stops, end] if job.position < end else []

    def _cache_state(self, job: PrefillJob) -> None:
        request = job.request
        if request.cache and job.state is not None:
            self._cache.put(request.tenant, job.ids[: job.position], job.state)
            job.cached_at = job.position


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences of ids."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(i for i in range(length) if first[i] != second[i])
