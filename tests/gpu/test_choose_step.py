"""Kernels are chosen where they can run, and the modules elsewhere; users are told why."""

import pytest
import torch

from tests.gpu.packed import random_network
from wkv.gpu import choose_step as chooser
from wkv.gpu.choose_step import choose_step
from wkv.gpu.module_step import ModuleStep
from wkv.gpu.requirements import Missing

GPU = torch.device("cuda", 0)


@pytest.fixture
def capability(monkeypatch):
    """Pretend that the GPU runs kernels, with a compute capability that a test may change."""
    found = [(9, 0)]
    monkeypatch.setattr(chooser, "kernel_error", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found[0])
    return found


def chosen(folder, *arguments, **sizes):
    notices = []
    network, _ = random_network(folder, *arguments, **sizes)
    return choose_step(network, GPU, notices.append), network, notices


def test_rwkv7_runs_on_kernels(triton_interpreter, capability, tmp_path):
    step, _, notices = chosen(tmp_path, "cpu bf16")
    assert step.kernels == "Triton kernels"
    assert notices == []


@pytest.mark.parametrize("generation", ["4", "5.2", "6", "7a"])
def test_other_generations_run_modules_with_a_kernel(
    triton_interpreter, capability, tmp_path, generation
):
    step, network, notices = chosen(tmp_path, "cpu fp16", generation)
    assert isinstance(step, ModuleStep)
    assert network.blocks[1].att.wkv.__module__ == "wkv.gpu.recurrences"
    assert notices == []


@pytest.mark.parametrize(
    ("strategy", "sizes", "old_gpu"),
    [("cpu bf16", {}, (7, 5)), ("cpu fp16", {}, (6, 1)), ("cpu fp16", {"n_ffn": 200}, (9, 0))],
)
def test_what_the_step_cannot_run_is_left_to_the_modules(
    triton_interpreter, capability, tmp_path, strategy, sizes, old_gpu
):
    capability[0] = old_gpu
    step, network, _ = chosen(tmp_path, strategy, **sizes)
    assert isinstance(step, ModuleStep)
    assert network.blocks[0].att.wkv.__module__ == "wkv.gpu.recurrences"


def test_heads_of_other_sizes_use_no_kernel(capability, tmp_path):
    step, network, notices = chosen(tmp_path, "cpu fp16", head_size=48)
    assert isinstance(step, ModuleStep)
    assert network.blocks[0].att.wkv.__module__ == "wkv.ops.wkv7"
    assert notices == []


def test_without_triton_the_modules_run_with_one_notice(monkeypatch, tmp_path):
    lack = Missing("Triton is not installed", "pip install triton")
    monkeypatch.setattr(chooser, "kernel_error", lambda device: lack)
    step, _, notices = chosen(tmp_path, "cpu fp16")
    assert isinstance(step, ModuleStep)
    assert len(notices) == 1
    assert "pip install triton" in notices[0]
