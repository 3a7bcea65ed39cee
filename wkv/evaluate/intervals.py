"""Confidence intervals of means, of shares, and of the change between two models' answers.

    mean     m +- t s / sqrt(n),  where s is the standard deviation of the means of n blocks
    share    Wilson's score interval; unlike m +- s it is not empty at 0 % and 100 %
    change   the interval of Agresti and Min for pairs of answers: half an answer is added to each
             of the four cells of the table of (right before, right after)

The predictions for neighboring tokens of a text resemble each other, so their values are averaged
over blocks, which are nearly independent. Sources: Wilson, JASA 22 (1927); Agresti and Min,
"Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24
(2005).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

Z = 1.959964
"""The standard normal distribution lies within +-Z with a probability of 95 %."""

BLOCK, LEAST_BLOCKS = 32, 32
"""Length of a block in tokens; in a short text blocks are shorter, so that there are enough."""


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % confidence interval, from low to high."""

    value: float
    low: float
    high: float


def mean(values: Tensor) -> Estimate:
    """Estimate a mean from the values of consecutive tokens, (T,), at least two."""
    blocks = max(len(values) // BLOCK, min(len(values), LEAST_BLOCKS))
    means = [float(block.double().mean()) for block in values.tensor_split(blocks)]
    center = sum(means) / blocks
    error = math.sqrt(sum((one - center) ** 2 for one in means) / (blocks - 1) / blocks)
    # Student's t for 95 % is 1.96 + 2.4 / degrees of freedom within 1 %, from 10 degrees on.
    margin = (Z + 2.4 / (blocks - 1)) * error
    value = float(values.double().mean())
    return Estimate(value, value - margin, value + margin)


def share(hits: int, count: int) -> Estimate:
    """Estimate a share from the number of hits among at least one trial."""
    value, weight = hits / count, Z * Z / count
    center = (value + weight / 2) / (1 + weight)
    margin = math.sqrt(value * (1 - value) * weight + weight * weight / 4) / (1 + weight)
    return Estimate(value, min(value, center - margin), max(value, center + margin))


def change(before: Sequence[bool], after: Sequence[bool]) -> Estimate:
    """Estimate the change of a share from the answers of two models to the same questions."""
    pairs = list(zip(before, after, strict=True))
    lost, gained, count = pairs.count((True, False)), pairs.count((False, True)), len(pairs) + 2
    center = (gained - lost) / count
    margin = Z * math.sqrt(((lost + gained + 1) / count - center**2) / count)
    value = (gained - lost) / len(pairs)
    return Estimate(value, max(-1.0, center - margin), min(1.0, center + margin))
