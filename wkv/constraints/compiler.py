"""Compiles what users send, in threads with a time limit, and keeps what was compiled.

A compilation that takes too long cannot be stopped. Its thread is left alone, and there are only
so many: while all are taken, nothing new is compiled.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from wkv.errors import BusyError, InputError, WKVError

Made = TypeVar("Made")


class Compiler(Generic[Made]):
    """Sources to what they are compiled to, the last ones kept. All threads may ask.

    Attributes:
        seconds: how long a compilation may take.
        most_kept: how many results are kept at most.
        most_bytes: how many bytes their sources have together at most.
        most_running: how many compilations go on at once, with those that took too long.
    """

    def __init__(
        self,
        build: Callable[[str], Made],
        *,
        seconds: float = 5.0,
        most_kept: int = 64,
        most_bytes: int = 2**18,
        most_running: int = 4,
    ) -> None:
        self.seconds = seconds
        self.most_kept = most_kept
        self.most_bytes = most_bytes
        self.most_running = most_running
        self._build = build
        self._futures: OrderedDict[str, Future[Made]] = OrderedDict()
        self._running = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Results that are kept, and compilations that go on."""
        return len(self._futures)

    def get(self, source: str) -> Made:
        """What a source is compiled to. Who asks for one that is being compiled waits for it.

        Raises:
            InputError: if it cannot be compiled, or not in time.
            BusyError: if too many are being compiled.
        """
        with self._lock:
            future = self._futures.get(source)
            if future is None:
                future = self._begin(source)
            self._futures.move_to_end(source)
        try:
            return future.result(self.seconds)
        except TimeoutError:
            raise InputError(
                f"the schema was not compiled in {self.seconds:g} seconds; make it simpler: "
                "shorter patterns, fewer alternatives, smaller bounds"
            ) from None

    def _begin(self, source: str) -> "Future[Made]":
        if self._running >= self.most_running:
            raise BusyError(f"{self._running} schemas are being compiled already; try again later")
        self._running += 1
        future: Future[Made] = Future()
        self._futures[source] = future
        # A daemon: one that never ends must not keep the program from ending.
        threading.Thread(target=self._run, args=(source, future), daemon=True).start()
        return future

    def _run(self, source: str, future: "Future[Made]") -> None:
        made = error = None
        try:
            made = self._build(source)
        except WKVError as known:
            error = known
        except BaseException as other:  # a panic of the library is no Exception
            error = InputError(f"the schema cannot be compiled ({other!r:.200}); make it simpler")
        with self._lock:
            self._running -= 1
            if error is not None:
                del self._futures[source]
            else:
                self._make_room(future)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(made)  # type: ignore[arg-type]

    def _make_room(self, new: "Future[Made]") -> None:
        """Forget the results that were asked for longest ago, until the bounds hold."""
        size = sum(map(len, self._futures))
        for source, future in list(self._futures.items()):
            if len(self._futures) <= self.most_kept and size <= self.most_bytes:
                return
            if future is new or future.done():
                del self._futures[source]
                size -= len(source)
