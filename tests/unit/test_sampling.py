"""Sampling in ChatRWKV's order, with the defects of its source absent."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import wkv
from wkv.inference.sample_batch import _nucleus, penalized, sample_batch
from wkv.inference.sampling import Sampler, Sampling

logit_lists = st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=40)


def sample(logits, position=0, **options):
    """Return the token at a position, or raise its error."""
    sampler = Sampler(Sampling(**{"seed": 0, "top_p": 1.0} | options))
    sampler.position = position
    (token,) = sample_batch(logits[None], [sampler])
    if isinstance(token, Exception):
        raise token
    return token


def _frequencies(logits, draws=4000, **options):
    counts = torch.zeros(len(logits))
    for position in range(draws):
        counts[sample(logits, position, **options)] += 1
    return counts / draws


def _kept(p, top_p):
    """Return the ids that top_p keeps of probabilities (V,)."""
    return _nucleus(p[None], [Sampling(top_p=top_p)])[0].nonzero()[:, 0].tolist()


@given(logit_lists)
def test_temperature_zero_is_the_most_probable(logits):
    logits = torch.tensor(logits)
    assert sample(logits, temperature=0) == int(logits.argmax())


@given(logit_lists, st.floats(0.01, 1.0))
def test_nucleus_is_the_smallest_set_that_reaches_top_p(logits, top_p):
    logits = torch.tensor(logits)
    p = logits.softmax(0)
    ordered = p.sort(descending=True).values
    reached = torch.nonzero(ordered.cumsum(0) >= top_p)
    cutoff = ordered[reached[0]] if len(reached) and top_p < 1 else ordered[-1]
    for position in range(20):
        assert p[sample(logits, position, top_p=top_p)] >= cutoff - 1e-6


@pytest.mark.parametrize("size", [65536, 1000])
@pytest.mark.parametrize("top_p", [0.3, 0.85, 0.9999, 1.0])
def test_large_vocabularies_keep_the_same_set_as_a_full_sort(size, top_p):
    p = torch.randn(size, generator=torch.Generator().manual_seed(1)).mul(2).softmax(0)
    ids = _kept(p, top_p)
    ordered, order = p.sort(descending=True)
    sums = ordered.double().cumsum(0)
    reached = torch.nonzero(sums >= top_p * sums[-1])
    count = int(reached[0]) + 1 if len(reached) and top_p < 1 else size
    assert set(ids) == set(order[:count].tolist())


def test_top_p_one_draws_from_all_and_is_not_greedy():
    logits = torch.zeros(65536)
    assert len({sample(logits, position) for position in range(20)}) > 15


def test_ties_with_the_cutoff_are_kept():
    frequencies = _frequencies(torch.tensor([2.0, 2.0, 2.0, 0.0]), top_p=0.01)
    assert frequencies[3] == 0
    assert (frequencies[:3] - 1 / 3).abs().max() < 0.04


def test_ties_with_the_cutoff_are_kept_beyond_the_first_look():
    assert len(_kept(torch.full((1000,), 1 / 1000), 0.1)) == 1000


def test_temperature_acts_after_the_nucleus():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    frequencies = _frequencies(logits, top_p=0.7, temperature=2.0)
    kept = torch.tensor([0.5, 0.3]).sqrt()
    assert frequencies[2] == 0
    assert (frequencies[:2] - kept / kept.sum()).abs().max() < 0.04


def test_top_k_keeps_the_largest():
    frequencies = _frequencies(torch.arange(6.0), top_k=2)
    assert frequencies[:4].sum() == 0
    assert (frequencies[4:] > 0).all()


def test_tiny_temperatures_do_not_underflow():
    assert sample(torch.randn(65536), temperature=1e-3, top_p=0.9) >= 0


def test_penalties_are_taken_and_fade():
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=1.0, penalty_decay=0.5)
    sampler = Sampler(sampling)
    for token, text in ((7, "a"), (3, "12"), (7, "a")):
        sampler.record(token, text)
    assert sampler.counts.ids.tolist() == [7, 3]
    assert sampler.counts.counts.tolist() == [1.25, 0.0]
    logits = torch.zeros(1, 10)
    (after,) = penalized(logits, [sampler])
    assert after[7] == -1.75
    assert after[3] == -0.5  # blanks and digits are present, but not counted
    assert not logits.any()


def test_seeds_repeat_and_differ():
    def draws(seed):
        seed = Sampling(seed=seed).with_seed().seed
        return [sample(torch.zeros(1000), position, seed=seed) for position in range(10)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert draws(None) != draws(None)


def test_banned_tokens_are_never_drawn():
    assert sample(torch.tensor([9.0, 1.0, 8.0, 2.0]), banned=(0, 2), temperature=0) == 3


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_are_not_finite_are_an_error(temperature):
    for bad in (math.nan, math.inf):
        with pytest.raises(wkv.InputError, match="not finite"):
            sample(torch.tensor([0.0, bad, 1.0]), temperature=temperature)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("top_p", 1.5),
        ("top_p", -0.1),
        ("top_k", -1),
        ("top_k", 2.5),
        ("penalty_decay", 2),
        ("presence_penalty", math.inf),
        ("seed", 1.5),
        ("seed", True),
        ("banned", ("x",)),
        ("banned", 5),
    ],
)
def test_impossible_settings_name_the_field(field, value):
    with pytest.raises(wkv.InputError, match=field):
        Sampling(**{field: value})
