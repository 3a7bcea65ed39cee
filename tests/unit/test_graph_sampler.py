"""The captured sampler samples the tokens of `sample_batch`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.gpu_models import trace
from tests.unit.test_sample_batch import _row, _sampler
from wkv.errors import InputError
from wkv.inference.graph_sampler import NOT_SAMPLED, FixedSampler, GraphSampler
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import Sampler, Sampling


def new_sampler(capture=lambda run: run):
    graphs = SimpleNamespace(capture=capture)
    return GraphSampler(SimpleNamespace(exclusively=lambda run: run(), graphs=graphs))


@pytest.mark.parametrize(
    ("vocab", "batches"), [(7, 60), (50, 60), (700, 40), (1024, 15), (5000, 6)]
)
def test_tokens_are_those_of_sample_batch(vocab, batches):
    random, sample = np.random.default_rng(vocab), new_sampler()
    for _ in range(batches):
        rows = int(random.integers(1, 34))
        logits = np.stack([_row(random, vocab) for _ in range(rows)]).astype(np.float32)
        samplers = [_sampler(random, vocab) for _ in range(rows)]
        before = torch.from_numpy(logits.copy())
        found = sample(torch.from_numpy(logits), samplers)
        assert found == sample_batch(before, samplers)
        assert torch.equal(torch.from_numpy(logits), before)


def test_most_rows_of_a_model_are_sampled_by_the_graph():
    logits = torch.randn(16, 65536, generator=torch.Generator().manual_seed(0)) * 3
    for options in ({"top_p": 0.3}, {"top_k": 40}, {"top_p": 1.0}, {"temperature": 0.0}):
        samplers = [Sampler(Sampling(seed=row, **options)) for row in range(16)]
        fixed = FixedSampler(16, logits, is_wide=options == {"top_p": 1.0})
        tokens = fixed(logits, samplers)
        assert tokens == sample_batch(logits, samplers)
        assert NOT_SAMPLED not in tokens


def test_many_rows_that_keep_all_tokens_are_sampled_in_parts():
    logits = torch.randn(150, 40, generator=torch.Generator().manual_seed(0))
    samplers = [Sampler(Sampling(seed=row, top_p=1.0)) for row in range(150)]
    sample = new_sampler()
    assert sample(logits, samplers) == sample_batch(logits, samplers)
    assert set(sample._fixed) == {(64, True), (32, True)}


def test_a_recorded_sampler_equals_the_sampler():
    # The record contains no decision of the host, so it serves other parameters of the same kind.
    recorded, random = new_sampler(trace), np.random.default_rng(0)
    for _ in range(6):
        logits = torch.from_numpy(random.normal(size=(3, 600)).astype(np.float32)) * 4
        samplers = [
            Sampler(
                Sampling(temperature=t, top_p=p, top_k=int(k), seed=int(random.integers(2**63)))
            )
            for t, p, k in zip((0.5, 1, 0), (0.2, 0.8, 0.9), random.integers(0, 9, 3), strict=True)
        ]
        assert recorded(logits, samplers) == sample_batch(logits, samplers)


@pytest.mark.parametrize("is_wide", [False, True])
def test_the_sampler_never_waits_for_the_device(is_wide):
    logits = torch.zeros(4, 2000, device="meta")
    assert FixedSampler(4, logits, is_wide=is_wide).run().shape == (4,)


def test_errors_are_those_of_one_row():
    logits = torch.randn(4, 50)
    logits[1] = torch.nan
    samplers = [
        Sampler(Sampling(seed=1)),
        Sampler(Sampling(seed=2)),
        Sampler(Sampling(seed=3, banned=(50,))),
        Sampler(Sampling(seed=4, banned=tuple(range(50)))),
    ]
    first, *errors = new_sampler()(logits, samplers)
    assert isinstance(first, int)
    assert all(isinstance(error, InputError) for error in errors)
    assert ["not finite" in str(errors[0]), "must be 0 to 49" in str(errors[1])] == [True, True]
    assert "all ids are banned" in str(errors[2])


def test_without_capture_the_sampler_is_the_plain_one(caplog):
    def fail(run):
        raise RuntimeError("no capture here\nmore")

    sample, logits = new_sampler(fail), torch.randn(2, 50)
    samplers = [Sampler(Sampling(seed=1)), Sampler(Sampling(seed=2))]
    for _ in range(2):
        assert sample(logits, samplers) == sample_batch(logits, samplers)
    assert len(caplog.records) == 1
    assert "could not be captured as a CUDA graph (no capture here)" in caplog.text
