"""The scheduler's thread, and the way from it into asyncio: nothing here blocks the event loop."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import suppress
from typing import TypeVar

from wkv.batching import ChoiceDone, Event, Load, Request, RequestFailed, RequestHandle, Scheduler
from wkv.errors import BusyError, WKVError
from wkv.serve.errors import RETRY_SECONDS, ApiError
from wkv.serve.metrics import Metrics, RequestTimer

IDLE_SECONDS = 0.5
"""The thread looks by itself this often; it is woken when something happens."""

BUSY_SECONDS = 0.05
"""After this time a request of several is offered again to a scheduler that had no room for it."""

STOPPED = WKVError("the server was stopped")

Result = TypeVar("Result")


class EventStream:
    """What comes of some requests: an asynchronous iterator over their events, as they come.

    Each event comes with its request's number. The requests are begun in their order, as many at
    once as there is room for. Whoever stops listening must `close` it, which stops them all.
    """

    def __init__(self, engine: "Engine", requests: Sequence[Request]) -> None:
        """Give the engine the first requests.

        Raises:
            InputError: if the first cannot be answered.
            BusyError: if it is not taken, because too many wait already.
        """
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._waiting = deque(enumerate(requests))
        self._running: dict[int, tuple[RequestHandle, int]] = {}
        self._begin()
        self._begin_more()

    def __aiter__(self) -> AsyncIterator[tuple[int, Event]]:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        """The next event.

        Raises:
            WKVError: what went wrong with one of them.
        """
        while not self._running:
            if not self._waiting:
                raise StopAsyncIteration
            self._begin_more()
            if not self._running:
                await asyncio.sleep(BUSY_SECONDS)
        number, event = await self._queue.get()
        handle, left = self._running[number]
        was_behind = handle.is_behind
        handle.acknowledge()
        if was_behind and not handle.is_behind:
            self._engine.scheduler.wake()
        if isinstance(event, RequestFailed):
            del self._running[number]
            self._engine.metrics.failed.inc()
            raise event.error
        if isinstance(event, ChoiceDone):
            self._running[number] = handle, left - 1
            if left == 1:
                del self._running[number]
                self._begin_more()
        return number, event

    def close(self) -> None:
        """Stop what has not ended."""
        self._waiting.clear()
        for handle, _ in self._running.values():
            handle.cancel()
        if self._running:
            self._engine.scheduler.wake()

    def _begin_more(self) -> None:
        """Begin as many as there are slots, so that others find room in the queue."""
        with suppress(BusyError):
            while self._waiting and len(self._running) < self._engine.scheduler.slots:
                self._begin()

    def _begin(self) -> None:
        number, request = self._waiting[0]
        timer = RequestTimer(self._engine.metrics, request.choices)

        def deliver(event: Event) -> None:
            timer.observe(event)
            with suppress(RuntimeError):  # the loop was closed while this was on its way
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (number, event))

        handle = self._engine.scheduler.submit(request, deliver)
        self._waiting.popleft()
        self._running[number] = handle, request.choices


class Engine:
    """Runs a scheduler in a thread of its own.

    Attributes:
        scheduler: what it runs.
        is_closing: nothing new is taken any more.
        metrics: what it measures.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        self.is_closing = False
        self._ends = self._aborts = False
        self._thread = threading.Thread(target=self._run, name="wkv-engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> Load:
        """How much there is to do now."""
        return self.scheduler.load

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, *requests: Request) -> EventStream:
        """Take requests; to be called in the event loop.

        Raises:
            InputError: if the first cannot be answered.
            BusyError: if too many wait already.
            ApiError: if the server is shutting down.
        """
        self._check_open()
        return EventStream(self, requests)

    def _check_open(self) -> None:
        if self.is_closing or not self.is_alive:
            why = "is shutting down" if self.is_closing else "has failed, and must be started again"
            raise ApiError(503, f"the server {why}; try again later", retry_after=RETRY_SECONDS)

    async def run_task(self, task: Generator[None, None, Result]) -> Result:
        """What a generator returns that works with the model, between the steps of all others."""
        self._check_open()
        return await asyncio.wrap_future(self.scheduler.run_task(task))

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and wait until all has ended, at most so long."""
        self.is_closing = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            if self.load.is_idle:
                return
            await asyncio.sleep(0.05)

    def abort(self) -> None:
        """End all that goes on with an error, as soon as the engine's thread comes to it."""
        self._aborts = True
        self.scheduler.wake()

    def close(self) -> None:
        """End the thread; what still goes on ends with an error."""
        self.is_closing = self._ends = True
        self.scheduler.wake()
        self._thread.join(timeout=30)
        self.scheduler.fail_all(STOPPED)
        if self.scheduler.cache.folder is not None:
            self.scheduler.cache.folder.close()

    def _run(self) -> None:
        while not self._ends:
            if self._aborts:
                self._aborts = False
                self.scheduler.fail_all(STOPPED)
            try:
                worked = self.scheduler.step()
            except BaseException as error:  # a library in another language may throw anything
                self.scheduler.fail_all(WKVError(f"the engine failed: {error!r}"))
                worked = True
            if not worked:
                self.scheduler.wait(IDLE_SECONDS)
