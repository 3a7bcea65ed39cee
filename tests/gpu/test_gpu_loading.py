"""Loading for the GPU engine: Triton kernels in the interpreter, and modules if they fail."""

import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.gpu.packed import rms
from wkv.gpu.module_step import ModuleStep
from wkv.inference import load
from wkv.inference.model import Model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "small.pth"
    tensors = random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=90)
    save_pth(tensors, path)
    return path


@pytest.fixture
def plain(path):
    return wkv.load(path, "cpu fp32", engine="torch")


def on_gpu_engine(path, plain, monkeypatch, step):
    """Load a model for the GPU engine with a step, on the CPU."""
    monkeypatch.setattr(load, "choose_step", lambda network, device, report: step(network))
    modules = wkv.load(path, "cpu fp32", engine="torch").network
    return Model(
        load._on_gpu(modules, torch.device("cpu")),
        strategy=plain.strategy,
        path=plain.path,
        identity=plain.identity,
        layout=plain.layout,
        make_tokenizer=lambda: plain.tokenizer,
    )


def test_kernels_run_in_the_engine(path, plain, triton_interpreter, monkeypatch, tmp_path):
    from wkv.gpu.rwkv7_step import Rwkv7Step

    model = on_gpu_engine(path, plain, monkeypatch, Rwkv7Step)
    assert model.kernels == "cpu, Triton kernels in CUDA graphs"
    assert model.weight_bytes == plain.weight_bytes
    plain.network.double()
    ids = torch.tensor([[5, 6, 7, 8], [9, 0, 0, 0], [11, 12, 0, 0]])
    logits, state = model.forward(ids, lengths=[4, 1, 2])
    expected, plain_state = plain.forward(ids, lengths=[4, 1, 2])
    assert rms(logits, expected.numpy()) < 2e-6
    logits, after = model.forward([[1], [2], [3]], state)
    expected, _ = plain.forward([[1], [2], [3]], plain_state)
    assert rms(logits, expected.numpy()) < 2e-6
    state.save(tmp_path / "s")
    again, _ = model.forward([[1], [2], [3]], wkv.State.load(tmp_path / "s", model))
    assert torch.equal(again, logits)
    every, _ = model.forward([3, 4], all_logits=True)
    assert rms(every, plain.forward([3, 4], all_logits=True)[0].numpy()) < 2e-6
    assert after.tokens_seen == (5, 2, 3)


def test_if_a_kernel_fails_modules_run_after_a_notice(path, plain, monkeypatch, caplog):
    class FailingStep(ModuleStep):
        def hidden(self, ids, rows):
            raise ValueError("the assembler found an error\nin line 3")

    model = on_gpu_engine(path, plain, monkeypatch, FailingStep)
    assert "a kernel failed (the assembler found an error); PyTorch's modules" in caplog.text
    assert "PyTorch modules" in model.kernels
    assert torch.equal(model.forward([1, 2, 3])[0], plain.forward([1, 2, 3])[0])
