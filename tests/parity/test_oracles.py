"""The oracles against the `rwkv` package, and against the published logits of two tiny models."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.oracles import oracle
from tests.parity.package import INSTALLED, Call, Question, layers, package_answers

DATA = Path(__file__).resolve().parents[2] / "../shared/data/checkpoints"
# generation 7's larger figure is float32 rounding in the package
TOLERANCE = {"4": 2e-5, "5.0": 2e-5, "5.1": 2e-5, "5.2": 2e-5, "6": 2e-5, "7": 1e-4, "7a": 1e-4}
IDS = [int(token) for token in np.random.default_rng(0).integers(0, 300, 24)]
SPLIT = 9
CALLS = {
    "one by one": Call(IDS, one_by_one=True),
    "sequence": Call(IDS),
    "sequence, first part": Call(IDS[:SPLIT]),
    "sequence, second part": Call(IDS[SPLIT:], after=2),
}
CASES = [*GENERATIONS, "5.2 state-tuned", "6 state-tuned"]

needs_package = pytest.mark.skipif(not INSTALLED, reason="the rwkv package is not installed")


@pytest.fixture(scope="module")
def checkpoints():
    """Give one random checkpoint per case, name to tensor."""
    built = {generation: random_checkpoint(generation) for generation in GENERATIONS}
    for generation in ("5.2", "6"):
        tuned = random_checkpoint(generation, seed=1)
        for l in range(3):
            # a state without symmetry, so that swapped axes show
            tuned[f"blocks.{l}.att.time_state"] = 0.3 * torch.randn(
                4, 32, 32, generator=torch.Generator().manual_seed(l)
            )
        built[f"{generation} state-tuned"] = tuned
    return built


@pytest.fixture(scope="module")
def truths(checkpoints):
    """Give the oracle's logits and state per case."""
    return {
        case: oracle(case.split()[0])(as_arrays(tensors), IDS)
        for case, tensors in checkpoints.items()
    }


@pytest.fixture(scope="module")
def answers(checkpoints, tmp_path_factory):
    """Give the package's answers per case and call, asked in three processes."""
    folder = tmp_path_factory.mktemp("checkpoints")
    questions = []
    for case, tensors in checkpoints.items():
        path = folder / f"{case.replace(' ', '-')}.pth"
        save_pth(tensors, path)
        questions.append(Question(str(path), case.split()[0], list(CALLS.values())))
    replies = package_answers(questions)
    return {
        case: dict(zip(CALLS, reply, strict=True))
        for case, reply in zip(checkpoints, replies, strict=True)
    }


@needs_package
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", CASES)
def test_forward_matches_package(case, call, truths, answers, record_property):
    generation = case.split()[0]
    logits, state = truths[case]
    rows = {"sequence, first part": slice(0, SPLIT), "sequence, second part": slice(SPLIT, None)}
    answer = answers[case][call]

    difference = np.abs(logits[rows.get(call, slice(None))] - answer.logits).max()
    record_property("logits", float(difference))
    assert difference < TOLERANCE[generation]

    if call != "sequence, first part":
        difference = largest_difference(state, layers(answer.state, generation))
        record_property("state", float(difference))
        assert difference < TOLERANCE[generation]


@pytest.mark.parametrize("case", CASES)
def test_forward_continues_from_state(case, checkpoints, truths):
    forward, tensors = oracle(case.split()[0]), as_arrays(checkpoints[case])
    first, middle = forward(tensors, IDS[:SPLIT])
    kept = [{name: array.copy() for name, array in layer.items()} for layer in middle]
    second, end = forward(tensors, IDS[SPLIT:], middle)

    logits, state = truths[case]
    np.testing.assert_array_equal(np.concatenate([first, second]), logits)
    for ours, whole in zip(end, state, strict=True):
        for name in whole:
            np.testing.assert_array_equal(ours[name], whole[name])
    for before, after in zip(kept, middle, strict=True):
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("generation", GENERATIONS)
def test_random_checkpoint_gives_logits_of_unit_size(generation, truths):
    assert 0.8 < truths[generation][0].std() < 1.25


@pytest.mark.parametrize("generation", GENERATIONS)
def test_random_checkpoint_uses_every_tensor(generation, checkpoints, truths):
    """A tensor that could be misread without a visible change of the logits would test nothing."""
    tensors = as_arrays(checkpoints[generation])
    unused = {f"blocks.0.att.{name}" for name in ("v0", "v1", "v2")}
    for name in tensors:
        moved = np.roll(tensors[name], 1, axis=tensors[name].ndim - 1)
        logits, _ = oracle(generation)(tensors | {name: moved}, IDS[:3])
        change = np.abs(logits - truths[generation][0][:3]).max()
        assert change == 0 if name in unused else change > 5e-3, f"{name}: {change}"


@pytest.mark.parametrize("generation", ["4", "7"])
def test_forward_matches_published_logits(generation):
    path = DATA / f"tiny-rwkv{generation}.pth"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    expected = json.loads(path.with_suffix(".expected.json").read_text())
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    logits, _ = oracle(generation)(as_arrays(tensors), expected["tokens"])
    np.testing.assert_allclose(logits[-1], expected["logits"], rtol=0, atol=1e-5)


def as_arrays(tensors):
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def largest_difference(state, other):
    """Compare two states: shifts absolutely, wkv relative to its largest entry."""
    worst = 0.0
    for ours, theirs in zip(state, other, strict=True):
        for name in ("att_shift", "ffn_shift"):
            worst = max(worst, np.abs(ours[name] - theirs[name]).max())
        scale = np.abs(ours["wkv"]).max()
        worst = max(worst, np.abs(ours["wkv"] - theirs["wkv"]).max() / max(scale, 1.0))
    return worst
