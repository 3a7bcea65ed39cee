"""Scores of continuations: a long target, a short one and none, in any batch."""

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS
from wkv.evaluate import scoring
from wkv.evaluate.scoring import Pair, score

PAIRS = [
    Pair([5, 9, 200], [7]),
    Pair([1], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    Pair([0, 44, 45, 46, 47, 48, 49], [50, 51]),
    Pair([8, 8], []),
    Pair([299], [0, 0, 0]),
]


def _at_once(model, pair):
    """One forward pass with all logits."""
    if not pair.target:
        return 0.0, True
    logits, _ = model.forward([*pair.context, *pair.target], all_logits=True)
    before = logits[len(pair.context) - 1 : -1]
    ids = torch.tensor(pair.target)
    logs = before.log_softmax(-1)[torch.arange(len(ids)), ids]
    return sum(logs.tolist()), bool((before.argmax(-1) == ids).all())


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_scores_are_those_of_one_pass_with_all_logits(models, generation, batch_size):
    model = models[generation]
    for pair, done in zip(PAIRS, score(model, PAIRS, batch_size), strict=True):
        expected, greedy = _at_once(model, pair)
        assert done.log_probability == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert done.is_greedy == greedy


def test_long_targets_pass_piece_by_piece(models, monkeypatch):
    whole = score(models["7"], PAIRS, 5)
    monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 3 * 300 * len(PAIRS))
    for one, other in zip(score(models["7"], PAIRS, 5), whole, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-5, abs=1e-5)
        assert one.is_greedy == other.is_greedy


def test_what_a_model_would_say_is_greedy(models):
    logits, state = models["6"].forward([3, 4])
    said = []
    for _ in range(4):
        said.append(int(logits.argmax()))
        logits, state = models["6"].forward(said[-1:], state)
    wrong = [*said[:3], (said[3] + 1) % 300]
    first, second = score(models["6"], [Pair([3, 4], said), Pair([3, 4], wrong)], 2)
    assert first.is_greedy
    assert not second.is_greedy


def test_progress_is_told(models):
    told = []
    score(models["4"], PAIRS, 2, told.append)
    assert told == [2, 2, 1]


def test_an_empty_context_is_refused(models):
    with pytest.raises(wkv.InputError, match="context has no ids"):
        score(models["4"], [Pair([], [1])], 1)
