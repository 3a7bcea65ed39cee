"""The same models on a CUDA device: the numbers of the CPU, in every dtype. Skips without one."""

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS
from wkv.gpu.graphs import call_again
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import Sampler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

# Root mean square error of logits of unit deviation.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02}
IDS = torch.randint(0, 300, (2, 70), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cuda_gives_the_numbers_of_the_cpu(checkpoint_paths, models, generation, dtype):
    expected, _ = models[generation].forward(IDS, lengths=[70, 31])
    model = wkv.load(checkpoint_paths[generation], f"cuda {dtype}")
    logits, state = model.forward(IDS, lengths=[70, 31])
    assert logits.dtype == torch.float32
    assert all(layer.wkv.dtype == torch.float32 for layer in state.layers)
    assert (logits.cpu() - expected).square().mean().sqrt() < TOLERANCE[dtype]
    _, first = model.forward(IDS[:, :40])
    rest, _ = model.forward(IDS[:, 40:], first)
    whole, _ = model.forward(IDS)
    assert (rest - whole).square().mean().sqrt() < TOLERANCE[dtype]


def test_states_and_generation_on_cuda(tmp_path):
    model = wkv.load(strategy="cuda fp32")
    sampling = wkv.Sampling(seed=0)
    rows = wkv.generate(model, ["Alice was", "The king"], sampling=sampling, max_tokens=10)
    rows[0].state.save(tmp_path / "s")
    state = wkv.State.load(tmp_path / "s", model)
    assert state.device.type == "cuda"
    assert len("".join(wkv.stream(model, "", sampling=sampling, max_tokens=5, state=state))) > 0


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("rows", [1, 3, 65])
def test_a_replayed_step_equals_the_step_bit_for_bit(checkpoint_paths, generation, rows):
    model = wkv.load(checkpoint_paths[generation], "cuda fp16", engine="cuda")
    graphs = model.network.graphs
    _, state = model.forward(torch.arange(rows * 5).view(rows, 5))
    ids = torch.arange(rows)[:, None] + 100
    for _ in range(20):
        replayed, after = model.forward(ids, state)
    assert graphs.failure is None
    assert rows <= max(graphs.sizes)
    graphs.capture = call_again
    graphs.clear()
    expected, expected_after = model.forward(ids, state)
    assert torch.equal(replayed, expected)
    for layer, other in zip(after.layers, expected_after.layers, strict=True):
        assert torch.equal(layer.wkv, other.wkv)


def test_the_captured_sampler_samples_the_tokens_of_the_plain_one(checkpoint_paths):
    model = wkv.load(checkpoint_paths["7"], "cuda fp16", engine="cuda")
    logits = torch.randn(200, 65536, generator=torch.Generator().manual_seed(0)).cuda() * 3
    for options in ({"top_p": 0.6}, {"top_p": 1.0}, {"top_k": 30}, {"temperature": 0.0}):
        samplers = [Sampler(wkv.Sampling(seed=row, **options)) for row in range(200)]
        found = model.graph_sampler(logits, samplers)
        expected = sample_batch(logits, samplers)
        equal = sum(a == b for a, b in zip(found, expected, strict=True))
        assert equal >= 198  # sums are rounded in another order
