"""Batched sampling against a float64 oracle, known random numbers, and the distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from tests.oracles import sampler as oracle
from wkv.errors import InputError
from wkv.inference.noise import NoiseKey, exponential, philox, race, race_torch
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import Sampler, Sampling

CPU = torch.device("cpu")
MASK = 2**32 - 1

KNOWN_WORDS = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((MASK,) * 4, (MASK, MASK), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
"""Published answers of Philox4x32-10, from the Random123 library."""


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_WORDS)
def test_random_words_are_the_published_ones(counter, key, words):
    found = philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert " ".join(f"{word:08x}" for word in found.tolist()) == words
    assert " ".join(f"{word:08x}" for word in oracle.philox(counter, key)) == words


def test_sampled_tokens_of_known_seeds():
    flat = torch.full((1, 65536), 1 / 65536)
    first = [int(race(flat, [NoiseKey(42, 0, position)])) for position in range(8)]
    assert first == [51744, 26134, 42352, 51931, 56072, 4090, 52983, 60264]
    third = [int(race(flat, [NoiseKey(2**40 + 1, 3, position)])) for position in range(4)]
    assert third == [50007, 11869, 11805, 7399]


def _row(random, vocab):
    """Return logits: flat, peaked, ordinary, or with many ties."""
    kind = random.integers(4)
    if kind == 0:
        return np.zeros(vocab)
    if kind == 1:
        return random.normal(size=vocab) * 20
    if kind == 2:
        return random.normal(size=vocab) * 2
    return random.integers(-2, 3, size=vocab).astype(float)


def _sampler(random, vocab):
    """Return a sampler with random parameters and a random past."""
    ids = random.integers(vocab, size=random.integers(5)).tolist()
    sampler = Sampler(
        Sampling(
            temperature=float(random.choice([0, 0.1, 0.7, 1, 1.3, 5])),
            top_p=float(random.choice([0, 0.3, 0.85, 1])),
            top_k=int(random.choice([0, 0, 1, 3, vocab])),
            presence_penalty=float(random.choice([0, 0.5])),
            frequency_penalty=float(random.choice([0, 0.5, -1])),
            banned=tuple(random.integers(vocab, size=random.integers(3)).tolist()),
            seed=int(random.integers(2**63)),
        ),
        choice=int(random.integers(4)),
    )
    for token in ids:
        sampler.record(token, "a")
    return sampler


def _oracle(logits, sampler):
    sampling, counts = sampler.sampling, sampler.counts
    weights, margin = oracle.remaining(
        logits,
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)),
        sampling.presence_penalty,
        sampling.frequency_penalty,
        sampling.banned,
    )
    token, distance = oracle.sample(weights, sampling.seed, sampler.choice, sampler.position)
    return token, margin < 1e-6 or distance < 1e-4  # float32 may decide otherwise


@pytest.mark.parametrize(("vocab", "rows"), [(7, 3000), (50, 5000), (700, 1900), (5000, 100)])
def test_tokens_are_those_of_the_oracle(vocab, rows):
    random = np.random.default_rng(vocab)
    close = 0
    for start in range(0, rows, 50):
        logits = np.stack([_row(random, vocab) for _ in range(50)]).astype(np.float32)
        samplers = [_sampler(random, vocab) for _ in range(50)]
        found = sample_batch(torch.from_numpy(logits), samplers)
        for row in range(50):
            expected, is_close = _oracle(logits[row], samplers[row])
            close += is_close
            if not is_close:
                assert found[row] == expected, (start, row, samplers[row])
    assert close < 0.02 * rows


def _samplers(choices):
    return [Sampler(Sampling(seed=3, **options), choice) for choice, options in enumerate(choices)]


options = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "top_p": st.sampled_from([0.0, 0.5, 0.9, 1.0]),
        "top_k": st.sampled_from([0, 1, 5, 300]),
    }
)


@settings(max_examples=30)
@given(st.lists(options, min_size=1, max_size=20), st.sampled_from([9, 600, 5000]))
def test_a_row_in_a_batch_gives_the_token_of_that_row_alone(choices, vocab):
    samplers = _samplers(choices)
    logits = torch.randn(len(samplers), vocab, generator=torch.Generator().manual_seed(vocab))
    before = logits.clone()
    alone = [sample_batch(logits[[row]], [one])[0] for row, one in enumerate(samplers)]
    assert sample_batch(logits, samplers) == alone
    assert torch.equal(logits, before)


@pytest.mark.parametrize("vocab", [1, 3, 255, 257, 4099])
def test_tensors_and_the_library_sample_the_same(vocab):
    random = torch.Generator().manual_seed(vocab)
    p = torch.rand(40, vocab, generator=random)
    p = torch.where(torch.rand(40, vocab, generator=random) < 0.3, p, 0.0)
    p[:, vocab // 2] = 0.5
    keys = [NoiseKey(2**64 - 1 - row, row % 3, row) for row in range(40)]
    assert torch.equal(race(p, keys), race_torch(p, keys))


def test_noise_of_other_devices_is_finite_and_close():
    keys = [NoiseKey(seed, 0, 5) for seed in range(64)]
    host = exponential(keys, 4096, CPU)
    assert host.dtype == torch.float64
    # The same arithmetic as on a GPU, on the CPU: the word 2^32 - 1 must not give infinity.
    for word in (0, 1, MASK):
        u = ((torch.tensor([word]).float() + 0.5) / 2**32).clamp(max=1 - 2.0**-24)
        assert torch.isfinite(-torch.log1p(-u)).all()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_tokens_follow_the_distribution(temperature):
    vocab, draws = 40, 20000
    logits = torch.randn(vocab, generator=torch.Generator().manual_seed(1)) * 2
    sampling = Sampling(seed=11, temperature=temperature, top_p=1.0)
    samplers = []
    for position in range(draws):
        sampler = Sampler(sampling)
        sampler.position = position
        samplers.append(sampler)
    tokens = sample_batch(logits.expand(draws, -1), samplers)
    counts = torch.bincount(torch.tensor(tokens), minlength=vocab).double()
    expected = (logits.double() / temperature).softmax(0) * draws
    large = expected > 5
    chi_square = ((counts - expected)[large] ** 2 / expected[large]).sum()
    freedom = int(large.sum()) - 1
    # The normal approximation of chi-square at p = 1e-4.
    assert chi_square < freedom + 3.72 * (2 * freedom) ** 0.5 + 8


def test_an_error_is_that_of_one_row():
    logits = torch.zeros(4, 5)
    logits[1, 2] = torch.nan
    banned = [(), (), tuple(range(5)), (7,)]
    found = sample_batch(logits, [Sampler(Sampling(banned=ids, seed=1)) for ids in banned])
    assert isinstance(found[0], int)
    assert [type(one) for one in found[1:]] == [InputError] * 3
    assert "not finite" in str(found[1])
    assert "all ids are banned" in str(found[2])
    assert "banned ids must be 0 to 4, [7]" in str(found[3])


def test_no_rows_give_no_tokens():
    assert sample_batch(torch.zeros(0, 5), []) == []


def test_a_text_can_be_repeated_with_the_seed_that_was_drawn(demo):
    stream = wkv.stream(demo, "Once", sampling=wkv.Sampling(temperature=2.0), max_tokens=20)
    text = "".join(stream)
    again = wkv.generate(
        demo, "Once", sampling=wkv.Sampling(temperature=2.0, seed=stream.seed), max_tokens=20
    )
    assert again.text == text
