"""The thread of the scheduler, and asynchronous access to it that never blocks the event loop."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from wkv.batching import (
    ChoiceDone,
    Event,
    Request,
    RequestFailed,
    RequestHandle,
    Scheduler,
    SchedulerLoad,
    TextEvent,
)
from wkv.errors import BusyError, WKVError
from wkv.serve.metrics import Metrics
from wkv.serve.protocol.errors import RETRY_SECONDS, ApiError

IDLE_SECONDS = 0.5
"""The longest time that an idle thread sleeps; new work wakes it earlier."""

BUSY_SECONDS = 0.05
"""Time before a request is submitted again to a scheduler whose queue was full."""

STOPPED = WKVError("the server was stopped")

Result = TypeVar("Result")
Call = Callable[[], None]


class EventStream:
    """An asynchronous iterator over the events of several requests, with each request's number.

    The requests start in order, as many at a time as there are slots. A consumer that stops early
    must call `close`, which cancels all of them.
    """

    def __init__(self, thread: "SchedulerThread", requests: Sequence[Request]) -> None:
        """Submit the first requests.

        Raises:
            InputError: if the first request is invalid.
            BusyError: if the queue is too full for the first request.
        """
        self._thread = thread
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._waiting = deque(enumerate(requests))
        self._running: dict[int, tuple[RequestHandle, int]] = {}
        self._submit_next()
        self._fill_slots()

    def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        """Return the next event.

        Raises:
            WKVError: if a request fails.
        """
        while not self._running:
            if not self._waiting:
                raise StopAsyncIteration
            self._fill_slots()
            if not self._running:
                await asyncio.sleep(BUSY_SECONDS)
        number, event = await self._queue.get()
        handle, choices_left = self._running[number]
        was_behind = handle.is_behind
        handle.acknowledge()
        if was_behind and not handle.is_behind:
            self._thread.scheduler.wake()
        if isinstance(event, RequestFailed):
            del self._running[number]
            self._thread.metrics.failed.inc()
            raise event.error
        if isinstance(event, ChoiceDone):
            self._running[number] = handle, choices_left - 1
            if choices_left == 1:
                del self._running[number]
                self._fill_slots()
        return number, event

    def close(self) -> None:
        """Cancel all requests that have not ended."""
        self._waiting.clear()
        for handle, _ in self._running.values():
            handle.cancel()
        if self._running:
            self._thread.scheduler.wake()

    def _fill_slots(self) -> None:
        """Submit at most as many requests as there are slots, to leave the queue to others."""
        with suppress(BusyError):
            while self._waiting and len(self._running) < self._thread.scheduler.slots:
                self._submit_next()

    def _submit_next(self) -> None:
        number, request = self._waiting[0]
        timer = RequestTimer(self._thread.metrics, request.choices)

        def deliver(event: Event) -> None:
            timer.observe(event)
            self._thread.outbox.add(self._loop, partial(self._queue.put_nowait, (number, event)))

        handle = self._thread.scheduler.submit(request, deliver)
        self._waiting.popleft()
        self._running[number] = handle, request.choices


class SchedulerThread:
    """A scheduler that runs in a thread of its own.

    Attributes:
        scheduler: the scheduler.
        metrics: the server's metrics.
        is_closing: whether new requests are refused.
        outbox: the events of the present step.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        self.is_closing = False
        self.outbox = Outbox()
        scheduler.flush = self.outbox.send
        self._ends = self._aborts = False
        self._thread = threading.Thread(target=self._run, name="wkv-scheduler", daemon=True)
        self._thread.start()

    @property
    def load(self) -> SchedulerLoad:
        """The present load."""
        return self.scheduler.load

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, *requests: Request) -> EventStream:
        """Submit requests. Must be called in the event loop.

        Raises:
            InputError: if the first request is invalid.
            BusyError: if the queue is too full for the first request.
            ApiError: if the server is shutting down.
        """
        self._check_open()
        try:
            events = EventStream(self, requests)
        except BusyError:
            self.metrics.refused.inc()
            raise
        self.metrics.requests.inc()
        self.metrics.prompt_tokens.inc(sum(len(request.ids) for request in requests))
        return events

    async def run_task(self, task: Generator[None, None, Result]) -> Result:
        """Run a generator that uses the model, step by step between the scheduler's own steps.

        Returns:
            the generator's return value.
        """
        self._check_open()
        return await asyncio.wrap_future(self.scheduler.run_task(task))

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, and wait until all others have ended or the time is over."""
        self.is_closing = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline and not self.load.is_idle:
            await asyncio.sleep(0.05)

    def abort(self) -> None:
        """Fail all requests, in the next iteration of the thread."""
        self._aborts = True
        self.scheduler.wake()

    def close(self) -> None:
        """Stop the thread, and fail the remaining requests."""
        self.is_closing = self._ends = True
        self.scheduler.wake()
        self._thread.join(timeout=30)
        self.scheduler.fail_all(STOPPED)
        if self.scheduler.cache.folder is not None:
            self.scheduler.cache.folder.close()

    def _check_open(self) -> None:
        if self.is_closing or not self.is_alive:
            reason = "is shutting down" if self.is_closing else "has failed and must be restarted"
            message = f"the server {reason}; try again later"
            raise ApiError(503, message, retry_after=RETRY_SECONDS)

    def _run(self) -> None:
        while not self._ends:
            if self._aborts:
                self._aborts = False
                self.scheduler.fail_all(STOPPED)
            try:
                worked = self.scheduler.step()
            except BaseException as error:  # libraries in other languages may raise anything
                self.scheduler.fail_all(WKVError(f"the scheduler failed: {error!r}"))
                worked = True
            if not worked:
                self.scheduler.wait(IDLE_SECONDS)


class Outbox:
    """Calls that event loops have to make, collected so that each loop is woken once for many.

    Waking a loop makes its thread compete with the scheduler's for Python's lock. If every event
    did so, the scheduler would wait after each of them.
    """

    def __init__(self) -> None:
        self._calls: dict[asyncio.AbstractEventLoop, list[Call]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, call: Call) -> None:
        """Add a call to the next `send`, in the thread of the scheduler."""
        self._calls.setdefault(loop, []).append(call)

    def send(self) -> None:
        """Let the loops make the calls."""
        calls, self._calls = self._calls, {}
        for loop, ours in calls.items():
            with suppress(RuntimeError):  # the loop was closed in the meantime
                loop.call_soon_threadsafe(_make, ours)


def _make(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


class RequestTimer:
    """Records the latencies of one request, from its creation on."""

    def __init__(self, metrics: Metrics, choices: int) -> None:
        self._metrics = metrics
        self._started = time.perf_counter()
        self._last_token: dict[int, float] = {}
        self._choices_left = choices

    def observe(self, event: Event) -> None:
        """Record the time of an event."""
        now = time.perf_counter()
        if isinstance(event, TextEvent) and event.token is not None:
            if not self._last_token:
                self._metrics.first_token.observe(now - self._started)
            elif event.choice in self._last_token:
                self._metrics.inter_token.observe(now - self._last_token[event.choice])
            self._last_token[event.choice] = now
        elif isinstance(event, ChoiceDone):
            self._metrics.count_drafts(event.drafts)
            self._choices_left -= 1
            if self._choices_left == 0:
                self._metrics.request.observe(now - self._started)
