"""PyTorch's number of threads, held down for a while.

Its threads go on turning, for milliseconds, after each piece of work that they shared, and so take
a core from whoever is next: between the tokens of the native engine they must not be woken at all.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Held(threading.local):
    """How each thread holds its own number: the smallest of the contexts that it is in."""

    limits: tuple[int, ...] = ()


class _Natural:
    """The number when nobody holds it down, and how many contexts there are.

    Each thread has a number of its own, but a new thread begins with the last that any thread set:
    so it is not asked what its number was, but all put back the one that was there first.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.number = 1


_HELD, _NATURAL = _Held(), _Natural()


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """A context in which PyTorch uses so many threads at most."""
    with _NATURAL.lock:
        if _NATURAL.inside == 0:
            _NATURAL.number = torch.get_num_threads()
        _NATURAL.inside += 1
    outer = _HELD.limits
    _HELD.limits = (*outer, threads)
    _hold()
    try:
        yield
    finally:
        _HELD.limits = outer
        _hold()
        with _NATURAL.lock:
            _NATURAL.inside -= 1


def unheld() -> int:
    """PyTorch's number of threads, as it is when nobody holds it down."""
    with _NATURAL.lock:
        return _NATURAL.number if _NATURAL.inside else torch.get_num_threads()


def _hold() -> None:
    """Set this thread's number to what its contexts allow."""
    torch.set_num_threads(min((_NATURAL.number, *_HELD.limits)))
