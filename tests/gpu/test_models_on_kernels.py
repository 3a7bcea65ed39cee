"""A model on the GPU engine with Triton kernels answers like the same model on PyTorch."""

import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.gpu.packed import SIZES
from tests.gpu_models import on_gpu_engine


@pytest.fixture(scope="module")
def models(triton_interpreter, tmp_path_factory):
    """Give a model on PyTorch, and on the GPU engine with kernels and few slots."""
    from wkv.gpu.rwkv7_step import Rwkv7Step

    path = tmp_path_factory.mktemp("kernels") / "m.pth"
    save_pth(random_checkpoint("7", **SIZES), path)
    plain, other = (wkv.load(path, "cpu fp32", engine="torch") for _ in range(2))
    return plain, on_gpu_engine(other, step=Rwkv7Step(other.network))


def test_forward_with_padding_all_logits_and_states(models):
    plain, kernels = models
    assert "Triton kernels" in kernels.kernels
    ids, lengths = torch.arange(12).view(2, 6), [6, 3]
    expected, old = plain.forward(ids, lengths=lengths)
    logits, state = kernels.forward(ids, lengths=lengths)
    assert (logits - expected).abs().max() < 1e-4
    expected, _ = plain.forward(torch.tensor([[5], [6]]), old)
    logits, _ = kernels.forward(torch.tensor([[5], [6]]), state)  # decodes
    assert (logits - expected).abs().max() < 1e-4
    expected, _ = plain.forward([1, 2], all_logits=True)
    logits, _ = kernels.forward([1, 2], all_logits=True)
    assert (logits - expected).abs().max() < 1e-4
    moved, _ = kernels.forward(torch.tensor([[5], [6]]), old)  # a state of another engine
    again, _ = kernels.forward(torch.tensor([[5], [6]]), state)
    assert (moved - again).abs().max() < 1e-4
