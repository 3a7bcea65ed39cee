"""wkv.compat beside the `rwkv` package: what it says, draws and remembers."""

import numpy as np
import pytest
import torch

from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.parity.package import INSTALLED
from tests.parity.package_pipeline import (
    WORLD,
    Drawing,
    Letters,
    Refining,
    Remembering,
    Writing,
    pipeline_answers,
)
from wkv.compat.model import RWKV
from wkv.compat.utils import PIPELINE, PIPELINE_ARGS

TOLERANCE = {"4": 2e-5, "5.0": 2e-5, "5.1": 2e-5, "5.2": 2e-5, "6": 2e-5, "7": 1e-4, "7a": 1e-4}
TIE = 1e-5

IDS = np.random.default_rng(3).integers(0, 300, 20).tolist()
CONTEXT = Letters().decode(np.random.default_rng(4).integers(0, 300, 300).tolist())
WORLD_CONTEXT = "The 3 rivers: 大江 flows 12 miles\n\nA:"
TOKENS = 200
GREEDY = {"temperature": 0.0}
MIXED = ("4", "cpu fp32 *1 -> cpu bf16 *1 -> cpu fp32i8"), ("6", "cpu bf16i8 *2+->cpu fp32 *1")

LOGITS = [2.0, 0.5, 2.0, -1.0, 1.2, 0.0, -0.3, 1.9, -2.5, 0.9, 0.2, -4.0]
DRAWS = 20_000
OPTIONS = [
    {},
    {"temperature": 0.0},
    {"temperature": 1.0, "top_p": 0.3},
    {"temperature": 0.6, "top_p": 0.95, "top_k": 0},
    {"temperature": 2.5, "top_p": 0.97, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.9, "top_k": 100},
]
CRITICAL = (10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88, 29.59, 31.26)
"""What chi-square exceeds once in a thousand times, for 1 to 11 degrees of freedom."""

TEXTS = [
    "",
    " \n\n ",
    "a",
    "  a \r\n\n b\u3000\n\u3000\n\t c\t\n",
    "\u3000x\u3000y\u3000",
    "a\n\n\nb",
]


@pytest.fixture(scope="module")
def world_paths(tmp_path_factory):
    """Give random models with the World vocabulary."""
    folder = tmp_path_factory.mktemp("world")
    paths = {}
    for generation in ("6", "7"):
        tensors = random_checkpoint(generation, n_layer=2, n_embd=64, vocab_size=65536)
        paths[generation] = folder / f"world-{generation}.pth"
        save_pth(tensors, paths[generation])
    return paths


@pytest.fixture(scope="module")
def package(checkpoint_paths, world_paths):
    """Give the package's answers, by what was asked."""
    if not INSTALLED:
        pytest.skip("the rwkv package is not installed")
    questions = {("refine", None): Refining(TEXTS)}
    for index, options in enumerate(OPTIONS):
        questions["draw", index] = Drawing(LOGITS, options, DRAWS)
    for name, path in checkpoint_paths.items():
        questions["write", name] = Writing(str(path), name, CONTEXT, TOKENS, args=GREEDY)
        for dtype in ("fp32", "bf16"):
            questions[dtype, name] = Remembering(str(path), name, IDS, f"cpu {dtype}")
    for name, strategy in MIXED:
        questions["mixed", name] = Remembering(str(checkpoint_paths[name]), name, IDS, strategy)
    for name, path in world_paths.items():
        questions["world", name] = Writing(str(path), name, WORLD_CONTEXT, TOKENS, WORLD, GREEDY)
    return dict(zip(questions, pipeline_answers(list(questions.values())), strict=True))


class Recording(PIPELINE):
    """Keeps what it drew, and how far the most probable token was from the next."""

    def sample_logits(self, logits, temperature=1.0, top_p=0.85, top_k=0):
        token = super().sample_logits(logits, temperature, top_p, top_k)
        first, second = logits.topk(2).values.tolist()
        self.drawn = [*getattr(self, "drawn", []), (token, first - second)]
        return token


def _write(path, context, tokenizer=None):
    pipeline = Recording(RWKV(str(path), "cpu fp32", verbose=False), WORLD)
    pipeline.tokenizer = tokenizer or pipeline.tokenizer
    text = pipeline.generate(context, TOKENS, PIPELINE_ARGS(**GREEDY))
    return text, pipeline.drawn


def _assert_same_tokens(drawn, expected):
    """Name the first difference, and whether it was a tie, which no float32 model can decide."""
    assert len(drawn) == len(expected)
    for step, ((token, gap), true) in enumerate(zip(drawn, expected, strict=True)):
        tie = " (a tie)" if gap < TIE else ""
        assert token == true, f"step {step}: {token} for {true}, gap {gap:.1e}{tie}"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_greedy_text_equals_the_packages(package, checkpoint_paths, generation):
    text, drawn = _write(checkpoint_paths[generation], CONTEXT, Letters())
    expected = package["write", generation]
    _assert_same_tokens(drawn, expected["token_ids"])
    assert len(set(expected["token_ids"])) > 50
    assert text == expected["text"]


@pytest.mark.parametrize("generation", ["6", "7"])
def test_greedy_text_in_the_world_vocabulary_equals_the_packages(package, world_paths, generation):
    text, drawn = _write(world_paths[generation], WORLD_CONTEXT)
    expected = package["world", generation]
    _assert_same_tokens(drawn, expected["token_ids"])
    # the package writes nothing more after a byte that begins no character
    assert text.startswith(expected["text"].rstrip("\ufffd"))


def _expected(temperature=1.0, top_p=0.85, top_k=0):
    """Give the exact distribution, by the definition, in float64."""
    if temperature == 0:
        temperature, top_p = 1.0, 0.0
    p = np.exp(LOGITS) / np.exp(LOGITS).sum()
    order = np.argsort(-p, kind="stable")
    cutoff = p[order][np.cumsum(p[order]) >= top_p][0]
    kept = np.where(p >= cutoff, p, 0)
    if top_k:
        kept[order[top_k:]] = 0
    kept = kept ** (1 / temperature)
    return kept / kept.sum()


def _chi_square(observed, expected):
    assert not observed[expected == 0].any()
    observed, expected = observed[expected > 0], expected[expected > 0]
    return ((observed - expected) ** 2 / expected).sum(), len(expected) - 1


@pytest.mark.parametrize("index", range(len(OPTIONS)))
def test_draws_are_distributed_as_defined_and_as_the_packages(package, index):
    pipeline, logits = PIPELINE(None, WORLD), torch.tensor(LOGITS)
    counts, theirs = np.zeros(len(LOGITS)), np.array(package["draw", index]["counts"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(index)
        for _ in range(DRAWS):
            counts[pipeline.sample_logits(logits, **OPTIONS[index])] += 1
    assert logits.tolist() == torch.tensor(LOGITS).tolist()
    expected = DRAWS * _expected(**OPTIONS[index])
    for observed in (counts, theirs):
        distance, freedom = _chi_square(observed, expected)
        assert distance < CRITICAL[freedom - 1]
    both = counts + theirs
    distance = ((counts - theirs) ** 2)[both > 0] / both[both > 0]
    assert distance.sum() < CRITICAL[(both > 0).sum() - 2]


def _flat(answer):
    return [
        torch.tensor(values).to(getattr(torch, dtype.removeprefix("torch.")))
        for values, dtype in zip(answer["state"], answer["dtypes"], strict=True)
    ]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_state_equals_the_packages(package, checkpoint_paths, generation):
    answer = package["fp32", generation]
    model = RWKV(checkpoint_paths[generation], "cpu fp32", verbose=False)
    logits, state = model.forward(IDS, None)
    assert np.abs(logits.numpy() - answer["logits"]).max() <= TOLERANCE[generation]
    theirs, zero = _flat(answer), model.generate_zero_state()
    for ours, true, empty in zip(state, theirs, zero, strict=True):
        assert ours.shape == true.shape == empty.shape
        assert ours.dtype == true.dtype == empty.dtype
        assert float((ours - true).abs().max()) <= TOLERANCE[generation]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_state_of_the_package_can_be_gone_on_from(package, checkpoint_paths, generation):
    model = RWKV(checkpoint_paths[generation], "cpu fp32", verbose=False)
    expected, _ = model.forward([*IDS, 7, 8])
    logits, _ = model.forward([7, 8], _flat(package["fp32", generation]))
    assert float((logits - expected).abs().max()) <= TOLERANCE[generation]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_state_has_the_packages_dtypes_in_bfloat16(package, checkpoint_paths, generation):
    answer = package["bf16", generation]
    model = RWKV(checkpoint_paths[generation], "cpu bf16", verbose=False)
    logits, state = model.forward(IDS, None)
    assert logits.dtype == torch.float32
    assert [str(tensor.dtype) for tensor in state] == answer["dtypes"]
    assert [str(tensor.dtype) for tensor in model.generate_zero_state()] == answer["dtypes"]
    difference = logits.numpy() - np.array(answer["logits"])
    assert np.sqrt((difference**2).mean()) < 0.1


@pytest.mark.parametrize(("generation", "strategy"), MIXED)
def test_strategy_and_state_of_a_split_model_are_the_packages(
    package, checkpoint_paths, generation, strategy
):
    answer = package["mixed", generation]
    model = RWKV(checkpoint_paths[generation], strategy, verbose=False)
    layers = [
        [layer.device, str(layer.atype), str(layer.wtype), layer.stream] for layer in model.strategy
    ]
    logits, state = model.forward(IDS, None)
    assert layers == answer["strategy"]
    assert [str(tensor.dtype) for tensor in state] == answer["dtypes"]
    difference = logits.numpy() - np.array(answer["logits"])
    assert np.sqrt((difference**2).mean()) < 0.1


def test_contexts_are_refined_as_in_the_package(package):
    pipeline = PIPELINE(None, WORLD)
    refined = [pipeline.refine_context(text) for text in TEXTS]
    assert refined == package["refine", None]["texts"]
