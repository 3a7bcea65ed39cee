"""The scheduler's running sequences: a token each at every step, all in one batch."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wkv.batching.prefill_queue import PrefillJob
from wkv.batching.request import ChoiceDone, Request, RequestHandle, TextEvent, as_wkv_error
from wkv.batching.state_cache import StateCache
from wkv.errors import BusyError, InputError
from wkv.inference.decode import RunningBatch, SampleEvent
from wkv.inference.model import Model
from wkv.inference.sequence import RunningSequence
from wkv.inference.speculation import Speculation
from wkv.models.state import State

READER_TIMEOUT_SECONDS = 60.0
"""Seconds that a paused sequence waits for a client that reads nothing."""


class ChoiceSequence(RunningSequence):
    """A sequence that belongs to a request.

    Attributes:
        handle: the request.
        number: number of the choice within the request.
        n_choices, unread_tokens: one choice, whose prompt was read; see `slot_queue.Work`.
    """

    n_choices, unread_tokens = 1, 0

    def __init__(self, model: Model, handle: RequestHandle, number: int) -> None:
        request = handle.request
        processors = request.logits_processors
        super().__init__(
            model.tokenizer,
            request.sampling,
            request.max_tokens,
            request.stops,
            processors[number] if processors else None,
            request.top_logprobs,
            number,
        )
        self.handle = handle
        self.number = number

    @property
    def request(self) -> Request:
        """The request that the sequence belongs to."""
        return self.handle.request


@dataclass(frozen=True)
class Paused:
    """The state of a paused sequence, and the time at which it was paused."""

    state: State
    since: float


class DecodeQueue:
    """The sequences whose prompts were read.

    Attributes:
        batch: the running sequences.
        waiting: the sequences that wait for a slot, with their states.
        paused: the sequences whose clients do not read fast enough, with their states.
        reader_timeout: seconds after which a paused sequence is ended.
    """

    def __init__(
        self,
        model: Model,
        cache: StateCache,
        reader_timeout: float = READER_TIMEOUT_SECONDS,
        speculation: Speculation | None = None,
    ) -> None:
        self.batch: RunningBatch[ChoiceSequence] = RunningBatch(model, speculation)
        self._speculation = speculation
        self.waiting: dict[ChoiceSequence, State] = {}
        self.paused: dict[ChoiceSequence, Paused] = {}
        self.reader_timeout = reader_timeout
        self._model = model
        self._cache = cache

    def __len__(self) -> int:
        """Return the number of running and paused sequences."""
        return len(self.batch.sequences) + len(self.paused)

    def add(self, job: PrefillJob) -> list[ChoiceSequence]:
        """Return the choices of a prompt that was read; they wait for `start`."""
        assert job.state is not None
        numbers = range(job.request.choices)
        choices = [ChoiceSequence(self._model, job.handle, number) for number in numbers]
        if self._speculation is not None:
            request = job.request
            owner = request.tenant if request.cache else None
            for choice in choices:
                choice.drafter = self._speculation.drafter(request.ids, request.prediction, owner)
        self.waiting |= dict.fromkeys(choices, job.state)
        return choices

    def start(self, choices: Sequence[ChoiceSequence]) -> None:
        """Run choices that wait; all at once, because a batch without free rows is copied."""
        if choices:
            self.batch.add(choices, [self.waiting.pop(choice) for choice in choices])

    def stop(self, choices: Sequence[ChoiceSequence]) -> None:
        """Let running choices wait until `start`."""
        self.waiting |= dict(zip(choices, self.batch.remove(choices), strict=True))

    def caught_up(self) -> list[ChoiceSequence]:
        """Return the paused choices whose clients caught up; they wait for `start`."""
        back = [choice for choice in self.paused if not choice.handle.is_behind]
        self.waiting |= {choice: self.paused.pop(choice).state for choice in back}
        return back

    def sample(self) -> bool:
        """Sample a token of each running sequence; returns False if there was none."""
        self._pause_slow_readers()
        if not self.batch.sequences:
            return False
        failed = {self._report(event) for event in self.batch.sample()}
        self.batch.remove([one for one in self.batch.sequences if one.handle in failed])
        self._end([one for one in self.batch.sequences if one.finish_reason is not None])
        return True

    def forward(self) -> None:
        """Let the model read the sampled tokens, and drafts of the next ones.

        If a device has too little memory, cached states go first, then the newest request.
        """
        while self.batch.sequences:
            try:
                self.batch.forward()
                return
            except BusyError as error:
                if not self._cache.free_memory():
                    newest = self.batch.sequences[-1].handle
                    newest.fail(error)
                    self.batch.remove([one for one in self.batch.sequences if one.handle is newest])

    def drop(self, handles: Iterable[RequestHandle]) -> None:
        """End the sequences of requests, and cache their states."""
        dropped = set(handles)
        for choice in [one for one in self.waiting if one.handle in dropped]:
            self._cache_state(choice, self.waiting.pop(choice))
        for choice in [one for one in self.paused if one.handle in dropped]:
            self._cache_state(choice, self.paused.pop(choice).state)
        running = [one for one in self.batch.sequences if one.handle in dropped]
        for choice, state in zip(running, self.batch.remove(running), strict=True):
            self._cache_state(choice, state)

    def handles(self) -> set[RequestHandle]:
        """Return the requests that these sequences belong to."""
        return {one.handle for one in (*self.batch.sequences, *self.paused, *self.waiting)}

    def clear(self) -> None:
        """Remove all sequences without caching their states."""
        self.batch = RunningBatch(self._model, self._speculation)
        self.paused, self.waiting = {}, {}

    def _report(self, event: SampleEvent[ChoiceSequence]) -> RequestHandle | None:
        """Deliver the outcome of sampling a sequence; returns the request if sampling failed."""
        choice = event.sequence
        if event.error is not None:
            choice.handle.fail(as_wkv_error(event.error))
            return choice.handle
        if event.text or event.token is not None:
            text = TextEvent(choice.number, event.text, event.token, event.logprobs)
            choice.handle.send(text)
        return None

    def _end(self, choices: Sequence[ChoiceSequence]) -> None:
        """Deliver the end of choices, and cache their states."""
        for choice, state in zip(choices, self.batch.remove(choices), strict=True):
            self._cache_state(choice, state)
            ids, reason = tuple(choice.token_ids), choice.finish_reason or ""
            counts, stop = choice.draft_counts, choice.stop_string
            done = ChoiceDone(choice.number, reason, ids, state, counts, stop)
            choice.handle.send(done)

    def _cache_state(self, choice: ChoiceSequence, state: State) -> None:
        """Cache the state of a sequence that ends, for the next turn of the conversation."""
        request = choice.request
        generated = state.tokens_seen[0] - choice.tokens_before
        if request.cache and choice.token_ids and generated > 0:
            ids = (*request.ids, *choice.token_ids[:generated])
            self._cache.put(request.tenant, ids, state, to_disk=True)

    def _pause_slow_readers(self) -> None:
        """Pause sequences whose clients are behind, and end them after a time."""
        full = [one for one in self.batch.sequences if one.handle.is_backpressured]
        now = time.monotonic()
        for choice, state in zip(full, self.batch.remove(full), strict=True):
            self.paused[choice] = Paused(state, now)
        late = now - self.reader_timeout
        given_up = {one.handle for one, paused in self.paused.items() if paused.since < late}
        for handle in given_up:
            handle.fail(InputError("the client read nothing for too long, so the answer was ended"))
        if given_up:
            self.drop(given_up)
