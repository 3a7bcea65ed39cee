"""PyTorch's number of threads, held down for a while.

Its threads go on turning, for milliseconds, after each piece of work that they shared, and so take
a core from whoever is next: between the tokens of the native engine they must not be woken at all.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Held:
    """The number before it was held down, and how many hold it.

    The number is inherited between threads, so those that are inside are counted.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.before = 1


_HELD = _Held()


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """A context in which PyTorch uses so many threads at most."""
    with _HELD.lock:
        if _HELD.inside == 0:
            _HELD.before = torch.get_num_threads()
        _HELD.inside += 1
        torch.set_num_threads(min(threads, _HELD.before))
    try:
        yield
    finally:
        with _HELD.lock:
            _HELD.inside -= 1
            if _HELD.inside == 0:
                torch.set_num_threads(_HELD.before)
