"""The choice of how many tokens to draft for each sequence of a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wkv.inference.speculation.time_budget import TimeBudget

MARGIN = 0.03
"""Drafts are sent only if they promise this much more speed."""


@dataclass(frozen=True)
class Offer:
    """Drafts that a sequence could send.

    Attributes:
        acceptance: the probability that each draft is accepted, given that those before it are.
        budget: the time that the sequence may still lose.
        cost: the cost of making one draft, in the unit of the costs of passes; 0 if it is free.
    """

    acceptance: Sequence[float]
    budget: TimeBudget
    cost: float = 0.0


@dataclass(frozen=True)
class Choice:
    """The number of drafts of each sequence, and the time that they add.

    Attributes:
        drafts: drafts of each sequence.
        extra: the expected additional time of each sequence, in plain tokens of one sequence.
    """

    drafts: list[int]
    extra: list[float]


def choose(
    offers: Sequence[Offer], costs: Callable[[int], float], shared: TimeBudget, max_rows: int
) -> Choice:
    """Choose the drafts that give the most tokens for their time.

    With B sequences, R rows cost C(R), so plain decoding gives B / C(B) tokens for its time. Drafts
    of all sequences are taken by their probability (the product along the draft), and the number R
    with the largest (B + sum of these probabilities) / C(R) is chosen. For one sequence, this is
    the length k with the largest (1 + a_1 + a_1 a_2 + ...) / C(k + 1).

    Args:
        offers: one for each sequence, in the order of the batch; without drafts for some.
        costs: the cost of a pass of so many rows.
        shared: the time that all sequences together may lose.
        max_rows: the largest number of rows of a pass with drafts.
    """
    count = len(offers)
    if not any(offer.acceptance for offer in offers):
        return Choice([0] * count, [0.0] * count)
    plain = costs(count)
    unit = plain / count  # the time of one token of one sequence
    reach = [_products(offer.acceptance) for offer in offers]
    drafts, best = [0] * count, Choice([0] * count, [0.0] * count)
    expected, making = float(count), 0.0
    best_speed = (1 + MARGIN) * count / plain
    is_open = [True] * count
    while count + sum(drafts) < max_rows:
        rows = [row for row in range(count) if is_open[row] and drafts[row] < len(reach[row])]
        if not rows:
            break
        row = max(rows, key=lambda row: reach[row][drafts[row]])
        drafts[row] += 1
        expected += reach[row][drafts[row] - 1]
        making += offers[row].cost
        total = costs(count + sum(drafts))
        extra = _shares(drafts, offers, total - plain, unit)
        if not (offers[row].budget.allows(extra[row]) and shared.allows(sum(extra))):
            drafts[row] -= 1
            expected -= reach[row][drafts[row]]
            making -= offers[row].cost
            is_open[row] = False
            continue
        speed = expected / (total + making)
        if speed > best_speed:
            best, best_speed = Choice(list(drafts), extra), speed
    return best


def _products(acceptance: Sequence[float]) -> list[float]:
    """Return the probability that each draft and all before it are accepted."""
    products, product = [], 1.0
    for rate in acceptance:
        product *= rate
        products.append(product)
    return products


def _shares(
    drafts: Sequence[int], offers: Sequence[Offer], extra: float, unit: float
) -> list[float]:
    """Divide the additional time of a pass among the sequences by their drafts."""
    total = sum(drafts)
    return [
        k * (extra / total + offer.cost) / unit for k, offer in zip(drafts, offers, strict=True)
    ]
