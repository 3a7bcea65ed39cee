"""Process-wide settings of PyTorch: its number of threads, and oneDNN.

Both are changed only within contexts, and restored afterwards.

PyTorch's worker threads spin-wait for milliseconds after each parallel task and occupy cores during
that time, so PyTorch must not use them between tokens of the native engine.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Limits(threading.local):
    """The limits of the contexts that the current thread is in."""

    active: tuple[int, ...] = ()


class _Unlimited:
    """The number of threads without limits, and the number of active contexts.

    PyTorch keeps one number per thread, but a new thread starts with the number that any thread set
    last. So the number is read only when the first context begins, and all contexts restore it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.contexts = 0
        self.number = 1


_LIMITS, _UNLIMITED = _Limits(), _Unlimited()


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Limit PyTorch to a number of threads within a context."""
    with _UNLIMITED.lock:
        if _UNLIMITED.contexts == 0:
            _UNLIMITED.number = torch.get_num_threads()
        _UNLIMITED.contexts += 1
    outer = _LIMITS.active
    _LIMITS.active = (*outer, threads)
    _apply()
    try:
        yield
    finally:
        _LIMITS.active = outer
        _apply()
        with _UNLIMITED.lock:
            _UNLIMITED.contexts -= 1


def unlimited_threads() -> int:
    """Return PyTorch's number of threads without the limits of any context."""
    with _UNLIMITED.lock:
        return _UNLIMITED.number if _UNLIMITED.contexts else torch.get_num_threads()


class _WithoutOneDNN:
    """A context that turns oneDNN off while any thread is inside of it.

    PyTorch's switch applies to the whole process, so the threads inside the context are counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch._C._get_mkldnn_enabled()
                torch._C._set_mkldnn_enabled(False)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch._C._set_mkldnn_enabled(self._before)


without_onednn = _WithoutOneDNN()


def _apply() -> None:
    """Set the number of threads of the current thread to the smallest active limit."""
    torch.set_num_threads(min((_UNLIMITED.number, *_LIMITS.active)))
