"""The learning rate over a run, as a share of its peak."""

import math
from dataclasses import dataclass

SHAPES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """The shape of the learning rate after warm-up.

    Attributes:
        shape: "constant", "linear" or "cosine".
        last: the share of the peak at the end of the run.
    """

    shape: str = "linear"
    last: float = 0.01

    def share(self, progress: float) -> float:
        """Return the share of the peak at a completed share of the run, in [0, 1]."""
        if self.shape == "constant":
            return 1.0
        if self.shape == "linear":
            return max(self.last, 1 - progress)
        fall = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return self.last + (1 - self.last) * fall
