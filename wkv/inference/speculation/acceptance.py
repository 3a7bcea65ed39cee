"""Estimates of how often a draft is accepted."""

from bisect import bisect_right
from collections.abc import Sequence

FADE, WEIGHT = 0.97, 3.0
"""Factor by which earlier outcomes count less with each new one, and the weight of the prior."""

MATCH_STARTS = (1, 2, 3, 4, 6, 9, 14, 22, 40)
"""The smallest match length of each class."""

MATCH_PRIOR = (0.16, 0.27, 0.44, 0.63, 0.73, 0.80, 0.87, 0.93, 0.97)
"""Acceptance by match length, measured on texts of people and of the built-in model."""

PLACE_STARTS = (0, 1, 2, 3, 4, 6)
PLACE_PRIOR = (0.6,) * len(PLACE_STARTS)
"""Classes of the place in a draft of a model, whose acceptance is unknown at first."""

PREDICTION_STARTS = (0, 1, 4, 16)
PREDICTION_PRIOR = (0.7, 0.85, 0.9, 0.95)
"""Classes of the number of tokens for which a client's prediction was right."""


class AcceptanceRates:
    """Fading averages of outcomes by class, such as the length of a match."""

    def __init__(self, starts: Sequence[int], prior: Sequence[float]) -> None:
        """Begin with a prior.

        Args:
            starts: the smallest value of each class, ascending.
            prior: the acceptance in each class.
        """
        self._starts = tuple(starts)
        self._accepted = [WEIGHT * rate for rate in prior]
        self._seen = [WEIGHT] * len(self._starts)

    def rate(self, value: int) -> float:
        """Return the estimated probability that a draft is accepted."""
        kind = self._kind(value)
        return self._accepted[kind] / self._seen[kind]

    def record(self, value: int, is_accepted: bool) -> None:
        """Add an outcome."""
        kind = self._kind(value)
        self._seen[kind] = self._seen[kind] * FADE + 1
        self._accepted[kind] = self._accepted[kind] * FADE + is_accepted

    def _kind(self, value: int) -> int:
        return bisect_right(self._starts, value) - 1


def match_rates() -> AcceptanceRates:
    """Return rates by the length of the matched suffix."""
    return AcceptanceRates(MATCH_STARTS, MATCH_PRIOR)


def place_rates() -> AcceptanceRates:
    """Return rates by the place in the draft of a model."""
    return AcceptanceRates(PLACE_STARTS, PLACE_PRIOR)


def prediction_rates() -> AcceptanceRates:
    """Return rates by the number of tokens for which a prediction was right."""
    return AcceptanceRates(PREDICTION_STARTS, PREDICTION_PRIOR)
