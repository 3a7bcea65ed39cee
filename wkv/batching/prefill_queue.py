"""The scheduler's prefill: prompts are read in chunks, and each shared prefix only once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wkv.batching.radix_tree import common_prefix
from wkv.batching.request import Request, RequestHandle
from wkv.batching.state_cache import StateCache
from wkv.errors import BusyError
from wkv.inference.model import Model
from wkv.inference.prefill import read_rows
from wkv.models.state import State

CACHE_INTERVAL = 2048
"""Tokens of a long prompt after which its state is cached, even within a message."""

MIN_CACHED_TOKENS = 64
"""A state is cached only if it is this many tokens beyond the last cached one."""

MIN_SHARED_TOKENS = 32
"""A prompt waits if another prompt will read at least this many of its tokens."""


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
        last_read: number of the step in which it was read, or added.
    """

    handle: RequestHandle
    position: int = 0
    state: State | None = None
    cached: int = 0
    stops_at: list[int] = field(default_factory=list)
    cached_at: int = 0
    waits_for: "PrefillJob | None" = None
    awaited: int = 0
    last_read: int = 0

    @property
    def request(self) -> Request:
        """The request whose prompt is read."""
        return self.handle.request

    @property
    def ids(self) -> tuple[int, ...]:
        """The whole prompt."""
        return self.request.ids

    @property
    def n_choices(self) -> int:
        """The number of choices to generate after the prompt."""
        return self.request.choices

    @property
    def unread_tokens(self) -> int:
        """The number of ids that were not read yet."""
        return len(self.ids) - self.position

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
        jobs: all jobs.
    """

    def __init__(self, model: Model, cache: StateCache) -> None:
        self.jobs: list[PrefillJob] = []
        self._model = model
        self._cache = cache
        self._step = 0

    def add(self, job: PrefillJob) -> None:
        """Start or continue to read a prompt, or wait for one that begins with the same ids."""
        job.last_read = self._step
        self._start(job)
        self.jobs.append(job)

    def drop(self, jobs: Iterable[PrefillJob]) -> None:
        """Remove jobs; the parts that were read serve the jobs that wait for them."""
        for job in jobs:
            self.jobs.remove(job)
            if job.position - job.cached_at >= MIN_CACHED_TOKENS:
                self._cache_state(job)

    def reject_newest(self, error: BusyError) -> None:
        """End the prompt that was added last with an error."""
        job = self.jobs.pop()
        job.handle.fail(error)

    def step(self, budget: int) -> list[PrefillJob]:
        """Read at most about `budget` tokens of one or several prompts.

        Returns:
            The jobs that are done. They were removed from `jobs`.

        Raises:
            Exception: any exception of the model; nothing has changed then.
        """
        present = set(self.jobs)
        for job in self.jobs:
            other = job.waits_for
            if other is not None and (other.position >= job.awaited or other not in present):
                self._start(job)
        chosen = self._choose(min(budget, self._model.tokens_at_once))
        unread = {job: count for job, count in chosen.items() if count}
        if unread:
            self._read(list(unread), list(unread.values()))
        self._step += 1
        for job in chosen:
            job.last_read = self._step
        done = [job for job in chosen if job.is_done]
        self.jobs = [job for job in self.jobs if not job.is_done or job not in chosen]
        return done

    def _in_turn(self) -> list[PrefillJob]:
        """Return the jobs by the time since their owner's, and then their own, last turn."""
        owners: dict[str, int] = {}
        for job in self.jobs:
            owner = job.request.owner
            owners[owner] = max(job.last_read, owners.get(owner, 0))
        return sorted(self.jobs, key=lambda job: (owners[job.request.owner], job.last_read))

    def _choose(self, budget: int) -> dict[PrefillJob, int]:
        """Choose jobs and how many tokens of each to read; the numbers are similar."""
        chosen: dict[PrefillJob, int] = {}
        most = 0
        for job in self._in_turn():
            if job.waits_for is not None:
                continue
            count = 0 if job.is_done else job.stops_at[0] - job.position
            count = min(count, most or budget)
            if chosen and (len(chosen) + 1) * max(most, count) > budget:
                continue
            chosen[job] = count
            most = max(most, count)
        return chosen

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
            common = common_prefix(theirs.ids, request.ids)
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
