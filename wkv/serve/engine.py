"""The scheduler's thread, and the way from it into asyncio: nothing here blocks the event loop."""

import asyncio
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import suppress
from typing import TypeVar

from wkv.batching import Ended, Event, Failed, Load, Request, Scheduler, Ticket
from wkv.errors import BusyError, WKVError

IDLE_SECONDS = 0.5
"""The thread looks by itself this often; it is woken when something happens."""

STOPPED = WKVError("the server was stopped")

Result = TypeVar("Result")


class Answer:
    """What comes of a request: an asynchronous iterator over its events.

    Whoever stops listening must `close` it, which stops the request.
    """

    def __init__(self, engine: "Engine", ticket: Ticket, queue: asyncio.Queue[Event]) -> None:
        self._engine = engine
        self._ticket = ticket
        self._queue = queue
        self._left = ticket.request.choices

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            WKVError: what went wrong; the request has ended then.
        """
        if not self._left:
            raise StopAsyncIteration
        event = await self._queue.get()
        was_behind = self._ticket.is_behind
        self._ticket.taken()
        if was_behind and not self._ticket.is_behind:
            self._engine.scheduler.wake()
        if isinstance(event, Failed):
            self._left = 0
            self._engine.failures += 1
            raise event.error
        self._left -= isinstance(event, Ended)
        return event

    def close(self) -> None:
        """Stop the request if it has not ended."""
        self._ticket.cancel()
        if self._left:
            self._engine.scheduler.wake()


class Engine:
    """Runs a scheduler in a thread of its own.

    Attributes:
        scheduler: what it runs.
        is_closing: nothing new is taken any more.
        failures: requests that ended with an error.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.is_closing = False
        self.failures = 0
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

    def submit(self, request: Request) -> "Answer":
        """Take a request; to be called in the event loop.

        Raises:
            InputError: if it cannot be answered.
            BusyError: if too many wait already, or the server is shutting down.
        """
        if self.is_closing:
            raise BusyError("the server is shutting down; try again later")
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Event] = asyncio.Queue()

        def deliver(event: Event) -> None:
            with suppress(RuntimeError):  # the loop was closed while this was on its way
                loop.call_soon_threadsafe(queue.put_nowait, event)

        return Answer(self, self.scheduler.submit(request, deliver), queue)

    async def run_task(self, task: Generator[None, None, Result]) -> Result:
        """What a generator returns that works with the model, between the steps of all others."""
        if self.is_closing:
            raise BusyError("the server is shutting down; try again later")
        return await asyncio.wrap_future(self.scheduler.run_task(task))

    async def drain(self, seconds: float) -> None:
        """Take nothing new, and wait until all has ended, at most so long."""
        self.is_closing = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            if self.load.is_nothing:
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
            if not self.scheduler.step():
                self.scheduler.wait(IDLE_SECONDS)
