"""Memory for states that is used again as soon as no state lies in it.

A model makes a state with every token. The system hands out memory of that size page by page, each
cleared first, which at batch 16 takes longer than the recurrence.
"""

import weakref

import numpy as np
import torch
from torch import Tensor

KEPT = 2
"""Pieces of one size that wait to be used again: that of the state before, and a spare."""

SIZES = 4
"""Sizes of which pieces are kept; others are handed back to the system."""

Piece = np.ndarray[tuple[int], np.dtype[np.float32]]


class StateMemory:
    """Hands out tensors of floats, and takes memory back when the last view of it is gone."""

    def __init__(self) -> None:
        self._free: dict[int, list[Piece]] = {}

    def take(self, size: int) -> Tensor:
        """A tensor (size,) float32 of any values."""
        free = self._free.setdefault(size, [])
        while len(self._free) > SIZES:
            self._free.pop(next(iter(self._free)))
        try:
            piece = free.pop()
        except IndexError:  # also where another thread took the last
            piece = torch.empty(size).numpy()
        # The tensor holds on to this view of the piece, and nothing else does.
        view = piece[:]
        weakref.finalize(view, _give_back, free, piece).atexit = False
        return torch.from_numpy(view)


def _give_back(free: list[Piece], piece: Piece) -> None:
    if len(free) < KEPT:
        free.append(piece)
