"""The same models on a CUDA device: the numbers of the CPU, in every dtype. Skips without one."""

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS

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
