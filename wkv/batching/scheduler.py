"""The scheduler: requests come and go at any time, and all of them share each pass of the model.

A step reads a chunk of the waiting prompts, then generates one token of each running sequence. So
a long prompt delays the tokens of others by one chunk at most.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from wkv.batching.decode import READER_TIMEOUT_SECONDS, ChoiceSequence, DecodeQueue
from wkv.batching.prefill_queue import PrefillJob, PrefillQueue
from wkv.batching.request import Deliver, PrefillDone, Request, RequestHandle, as_wkv_error
from wkv.batching.slot_queue import SlotQueue
from wkv.batching.state_cache import StateCache
from wkv.errors import BusyError, InputError
from wkv.inference.model import Model
from wkv.inference.speculation import Speculation
from wkv.ops.torch_settings import thread_limit

CHUNK_WORK, GPU_CHUNK_WORK = 2**35, 2**40
"""Multiplications, about, of the chunk of a prompt that is read between two decode steps.

On a small CPU that takes 0.1 s, on a GPU 0.01 s.
"""

MIN_CHUNK = 16

QUEUE_TOKENS = 2**22
"""Tokens of prompts that may wait to be read. With their ids, they take about 150 MB of memory."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class SchedulerLoad:
    """The amount of work of a scheduler.

    Attributes:
        running: sequences that are being generated, or paused because their clients are slow.
        prefilling: prompts that are being read.
        queued: requests that wait for slots.
        tasks: other work that is done between the steps.
        slots: sequences that can run at once.
    """

    running: int
    prefilling: int
    queued: int
    tasks: int
    slots: int

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.running or self.prefilling or self.queued or self.tasks)


class Scheduler:
    """Accepts requests from any thread; one thread calls `step`.

    Attributes:
        model: the model that answers.
        cache: states that were reached before.
        slots: sequences that are read or generated at once.
        queue: the number of choices that each owner may have waiting for a slot.
        queue_tokens: tokens of prompts that may wait to be read; one owner may use half of it.
        prefill_chunk: tokens of prompts that are read between two decode steps.
        speculation: drafts the next tokens of the sequences; None decodes without drafts.
        flush: called once in each step, after its events were delivered and before the model runs.
            A server replaces it to pass on all events of a step at once.
    """

    def __init__(
        self,
        model: Model,
        cache: StateCache,
        *,
        slots: int = 16,
        queue: int = 64,
        queue_tokens: int = QUEUE_TOKENS,
        prefill_chunk: int | None = None,
        reader_timeout: float = READER_TIMEOUT_SECONDS,
        speculation: Speculation | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.slots = slots
        self.speculation = speculation
        self.queue = queue
        self.queue_tokens = queue_tokens
        self.prefill_chunk = prefill_chunk or default_prefill_chunk(model)
        self.flush: Callable[[], None] = _nothing
        self._prefill = PrefillQueue(model, cache)
        self._decode = DecodeQueue(model, cache, reader_timeout, speculation)
        self._queued: SlotQueue[PrefillJob | ChoiceSequence] = SlotQueue(slots)
        self._tasks: deque[tuple[Generator[None, None, Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._is_woken = False

    @property
    def load(self) -> SchedulerLoad:
        """The amount of work at present."""
        return SchedulerLoad(
            running=len(self._decode),
            prefilling=len(self._prefill.jobs),
            queued=len(self._queued),
            tasks=len(self._tasks),
            slots=self.slots,
        )

    def submit(self, request: Request, deliver: Deliver) -> RequestHandle:
        """Accept a request; `deliver` receives its events, in the thread that calls `step`.

        Raises:
            InputError: if the prompt is empty, or there are fewer slots than choices.
            BusyError: if too many requests, or too long ones, wait already.
        """
        known = request.start is not None and request.start.logits is not None
        if not request.ids and not known:
            raise InputError("the prompt is empty; give some text, or a state to go on from")
        if not 1 <= request.choices <= self.slots:
            raise InputError(
                f"{request.choices} choices were asked for, expected 1 to {self.slots}"
            )
        handle = RequestHandle(request, deliver)
        with self._changed:
            self._check_room(request)
            self._queued.push(PrefillJob(handle, state=request.start))
            self._changed.notify()
        return handle

    def run_task(self, task: Generator[None, None, Result]) -> "Future[Result]":
        """Advance a generator once in each step, in the thread that calls `step`.

        The future receives the generator's return value. Cancelling the future stops the task.

        Raises:
            BusyError: if too many tasks wait already.
        """
        future: Future[Any] = Future()
        with self._changed:
            if len(self._tasks) >= self.queue + self.slots:
                raise BusyError(f"{len(self._tasks)} tasks wait already; try again later")
            self._tasks.append((task, future))
            self._changed.notify()
        return future

    def wake(self) -> None:
        """Interrupt `wait`: a request was cancelled, or a client caught up."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def wait(self, seconds: float) -> None:
        """Return when there is something new to do, or after some time."""
        with self._changed:
            if not self._queued and not self._tasks and not self._is_woken:
                self._changed.wait(seconds)
            self._is_woken = False

    def step(self) -> bool:
        """Advance all work a little; returns False if there was nothing to do."""
        # The work between the engine's calls is small. PyTorch's threads, once awake, would take
        # the cores from the engine's own threads for milliseconds.
        quiet = thread_limit(1) if self.model.engine == "native" else nullcontext()
        try:
            with quiet:
                self._drop_cancelled()
                self._share_slots(self._decode.caught_up())
                worked = self._step_prefill()
                worked = self._decode.sample() or worked
                self.flush()
                self._decode.forward()
                return self._step_task() or worked
        except Exception as error:
            self.fail_all(error)
            return True

    def fail_all(self, error: Exception) -> None:
        """End all present work with an error; later requests are not affected."""
        reported = as_wkv_error(error)
        with self._changed:
            handles = {work.handle for work in self._queued} | self._decode.handles()
            self._queued.clear()
            tasks = list(self._tasks)
            self._tasks.clear()
        for _, future in tasks:
            with suppress(InvalidStateError):
                future.set_exception(reported)
        handles |= {job.handle for job in self._prefill.jobs}
        self._prefill.jobs.clear()
        self._decode.clear()
        for handle in handles:
            handle.fail(reported)
        self.flush()

    def _holding(self) -> list[PrefillJob | ChoiceSequence]:
        """Return the work that holds a slot."""
        return [*self._prefill.jobs, *self._decode.batch.sequences]

    def _check_room(self, request: Request) -> None:
        """Accept one more request.

        Raises:
            BusyError: if its owner has too many requests, or too many tokens wait to be read.
        """
        unread = Counter[str]()
        waiting = sum(one.request.owner == request.owner for one in list(self._decode.paused))
        for work in self._queued:
            unread[work.handle.request.owner] += work.unread_tokens
            if work.handle.request.owner == request.owner:
                waiting += work.n_choices
        holding = self._holding()
        if waiting >= self.queue + max(0, self.slots - len(holding)):
            raise BusyError(
                f"{len(holding)} of {self.slots} slots are in use and {waiting} choices wait "
                "already; try again later"
            )
        for work in holding:
            unread[work.handle.request.owner] += work.unread_tokens
        total, own, new = unread.total(), unread[request.owner], len(request.ids)
        share = self.queue_tokens // (len(unread) + 1)
        is_full = total > 0 and total + new > self.queue_tokens and own + new > share
        if is_full or (own > 0 and own + new > self.queue_tokens // 2):
            raise BusyError(
                f"{total} tokens of prompts wait to be read already, {own} of them yours, and this "
                f"prompt has {new}; try again later"
            )

    def _drop_cancelled(self) -> None:
        with self._changed:
            self._queued.remove_cancelled()
        self._prefill.drop([job for job in self._prefill.jobs if job.handle.is_cancelled])
        cancelled = {handle for handle in self._decode.handles() if handle.is_cancelled}
        if cancelled:
            self._decode.drop(cancelled)

    def _share_slots(self, ready: Iterable[ChoiceSequence]) -> None:
        """Start and stop work as the slots are shared; `ready` begins to wait for a slot."""
        with self._changed:
            for choice in ready:
                self._queued.push(choice)
            change = self._queued.step(self._holding())
        self._decode.stop([work for work in change.stopped if isinstance(work, ChoiceSequence)])
        self._prefill.drop(work for work in change.stopped if isinstance(work, PrefillJob))
        self._decode.start([work for work in change.started if isinstance(work, ChoiceSequence)])
        for work in change.started:
            if isinstance(work, PrefillJob):
                try:
                    self._prefill.add(work)
                except Exception as error:  # such as a failing disk; it concerns this request only
                    work.handle.fail(as_wkv_error(error))

    def _step_prefill(self) -> bool:
        """Read a chunk of the prompts; those that are complete start to be decoded."""
        if not self._prefill.jobs:
            return False
        is_alone = not self._decode.batch.sequences
        budget = self.model.tokens_at_once if is_alone else self.prefill_chunk
        first, others = list[ChoiceSequence](), list[ChoiceSequence]()
        try:
            done = self._prefill.step(budget)
        except BusyError as error:  # a device has too little memory
            if not self.cache.free_memory():
                self._prefill.reject_newest(error)
            return True
        for job in done:
            job.handle.send(PrefillDone(job.cached))
            try:
                choices = self._decode.add(job)
            except Exception as error:  # such as parameters that no sampler accepts
                job.handle.fail(as_wkv_error(error))
                continue
            first.append(choices[0])  # in the slot of the prompt
            others += choices[1:]
        self._decode.start(first)
        if others:
            self._share_slots(others)
        return True

    def _step_task(self) -> bool:
        """Advance the first task, which then goes to the end of the line."""
        with self._changed:
            if not self._tasks:
                return False
            task, future = self._tasks[0]
        ended = future.cancelled() or _advance(task, future)
        with self._changed:
            self._tasks.popleft()
            if not ended:
                self._tasks.append((task, future))
        return True


def _nothing() -> None:
    """Pass on nothing: each event was passed on when it was delivered."""


def _advance(task: Generator[None, None, Any], future: "Future[Any]") -> bool:
    """Advance a task once; returns True if it has ended and its future is set."""
    try:
        next(task)
    except StopIteration as end:
        with suppress(InvalidStateError):  # it was cancelled meanwhile
            future.set_result(end.value)
    except Exception as error:
        with suppress(InvalidStateError):
            future.set_exception(error)
    else:
        return False
    return True


def default_prefill_chunk(model: Model) -> int:
    """Return the tokens to read between two decode steps."""
    config = model.config
    multiplications = config.n_layer * (12 * config.n_embd**2)
    work = CHUNK_WORK if model.device.type == "cpu" else GPU_CHUNK_WORK
    return max(MIN_CHUNK, min(model.tokens_at_once, work // multiplications))
