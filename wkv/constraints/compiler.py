"""Compile grammars that users send, with a time limit, and cache the results.

A compilation that takes too long cannot be stopped, so its thread is abandoned. The number of such
threads is limited; while all of them are busy, no further grammar is compiled.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from wkv.errors import BusyError, InputError, WKVError

Compiled = TypeVar("Compiled")


class Compiler(Generic[Compiled]):
    """A thread-safe cache of compiled sources that compiles missing ones with a time limit.

    Attributes:
        timeout: seconds that a compilation may take.
        max_entries: largest number of cached results; the least recently used are evicted.
        max_bytes: largest total size of the sources of cached results.
        max_running: largest number of simultaneous compilations, including abandoned ones.
    """

    def __init__(
        self,
        build: Callable[[str], Compiled],
        *,
        timeout: float = 5.0,
        max_entries: int = 64,
        max_bytes: int = 2**18,
        max_running: int = 4,
    ) -> None:
        self.timeout = timeout
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.max_running = max_running
        self._build = build
        self._futures: OrderedDict[str, Future[Compiled]] = OrderedDict()
        self._running = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of cached results and running compilations."""
        return len(self._futures)

    def get(self, source: str) -> Compiled:
        """Return the compiled form of a source; simultaneous callers share one compilation.

        Raises:
            InputError: if it cannot be compiled, or not in time.
            BusyError: if too many compilations are running.
        """
        with self._lock:
            future = self._futures.get(source)
            if future is None:
                future = self._start(source)
            self._futures.move_to_end(source)
        try:
            return future.result(self.timeout)
        except TimeoutError:
            raise InputError(
                f"the schema was not compiled in {self.timeout:g} seconds; make it simpler: "
                "shorter patterns, fewer alternatives, smaller bounds"
            ) from None

    def _start(self, source: str) -> "Future[Compiled]":
        if self._running >= self.max_running:
            raise BusyError(f"{self._running} schemas are being compiled already; try again later")
        self._running += 1
        future: Future[Compiled] = Future()
        self._futures[source] = future
        # A daemon thread: a compilation that never ends must not keep the program from exiting.
        threading.Thread(target=self._run, args=(source, future), daemon=True).start()
        return future

    def _run(self, source: str, future: "Future[Compiled]") -> None:
        compiled = error = None
        try:
            compiled = self._build(source)
        except WKVError as known:
            error = known
        except BaseException as other:  # a panic of the library is not an Exception
            error = InputError(f"the schema cannot be compiled ({other!r:.200}); make it simpler")
        with self._lock:
            self._running -= 1
            if error is not None:
                del self._futures[source]
            else:
                self._evict(future)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(compiled)  # type: ignore[arg-type]

    def _evict(self, new: "Future[Compiled]") -> None:
        """Remove the least recently used results until the limits hold."""
        size = sum(map(len, self._futures))
        for source, future in list(self._futures.items()):
            if len(self._futures) <= self.max_entries and size <= self.max_bytes:
                return
            if future is new or future.done():
                del self._futures[source]
                size -= len(source)
