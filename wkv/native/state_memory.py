"""Memory for states that is reused when no tensor refers to it any more.

A model creates a state for every token. The operating system provides memory of that size page by
page and zeroes each page, which at batch size 16 takes longer than the recurrence.
"""

import weakref

import numpy as np
import torch
from torch import Tensor

MAX_FREE_BLOCKS = 2
"""Free blocks that are kept per size: one for the previous state, and a spare."""

MAX_SIZES = 4
"""Sizes for which free blocks are kept; blocks of other sizes are freed."""

SHARED_BITS = 2
"""Sizes are rounded up to numbers with this many bits after the first; a quarter may be unused."""

Block = np.ndarray[tuple[int], np.dtype[np.float32]]


class StateMemory:
    """Allocates tensors of floats, and reclaims a block when its last view is deleted."""

    def __init__(self) -> None:
        self._free: dict[int, list[Block]] = {}

    def take(self, size: int) -> Tensor:
        """Return an uninitialized tensor (size,) float32."""
        # The number of rows changes when sequences start and end; a block serves similar numbers.
        unit = max(1, 2 ** (size.bit_length() - 1 - SHARED_BITS))
        capacity = -(-size // unit) * unit
        free = self._free.setdefault(capacity, [])
        while len(self._free) > MAX_SIZES:
            self._free.pop(next(iter(self._free)))
        try:
            block = free.pop()
        except IndexError:  # also if another thread took the last block
            block = torch.empty(capacity).numpy()
        # Only the tensor refers to this view, so the finalizer runs when the tensor is deleted.
        view = block[:size]
        weakref.finalize(view, _reclaim, free, block).atexit = False
        return torch.from_numpy(view)


def _reclaim(free: list[Block], block: Block) -> None:
    if len(free) < MAX_FREE_BLOCKS:
        free.append(block)
