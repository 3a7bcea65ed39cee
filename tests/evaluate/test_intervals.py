"""Confidence intervals: published values, and how often they contain the true value."""

import math

import pytest
import torch

from wkv.evaluate.intervals import change, mean, share


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_shares_have_the_published_intervals(hits, count, low, high):
    """Wilson's interval, as in Newcombe, Statistics in Medicine 17 (1998), table I."""
    found = share(hits, count)
    assert found.value == hits / count
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)


def test_a_mean_of_neighbors_that_resemble_each_other():
    """About 95 % of the intervals contain the mean of a process, whose values are correlated."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(400, 1032, generator=generator, dtype=torch.float64)
    values = 3 + sum(noise[:, lag : lag + 1024] for lag in range(8))
    estimates = [mean(row) for row in values]
    inside = sum(one.low <= 3 <= one.high for one in estimates) / len(estimates)
    assert 0.9 <= inside <= 0.98
    alone = 1.96 * math.sqrt(8 / 1024)  # the margin if the values were independent
    assert all(one.high - one.value > 1.3 * alone for one in estimates)
    assert estimates[0].value == pytest.approx(float(values[0].mean()))


def test_changes_of_paired_answers_are_inside_the_interval():
    generator = torch.Generator().manual_seed(2)
    chances, inside = torch.rand(400, 60, 1, generator=generator), 0
    for draws in chances:
        draws = draws[:, 0].tolist()
        before, after = [d < 0.9 for d in draws], [d < 0.8 or d > 0.97 for d in draws]
        found = change(before, after)
        assert found.value == pytest.approx((sum(after) - sum(before)) / 60)
        inside += found.low <= -0.07 <= found.high
    assert 0.92 <= inside / 400 <= 0.99


def test_equal_answers_are_not_proof_of_equal_models():
    few, many = change([True] * 10, [True] * 10), change([True] * 1000, [True] * 1000)
    assert few.value == 0
    assert -1 <= few.low < many.low < 0 < many.high < few.high <= 1
    back, forth = change([True, True], [True, False]), change([True, False], [True, True])
    assert (back.low, back.high) == (-forth.high, -forth.low)
