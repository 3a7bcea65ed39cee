"""The requirements of the kernels, and the messages where one is missing."""

import shutil
import sysconfig

import pytest
import torch

from wkv.cli import machine
from wkv.gpu import requirements
from wkv.gpu.requirements import kernel_error, missing


def without(monkeypatch, name):
    """Make Triton, a compiler or Python's headers invisible."""
    monkeypatch.setattr(requirements, "find_spec", lambda module: None if name == "triton" else 1)
    monkeypatch.setattr(shutil, "which", lambda tool: None if name == "compiler" else "/usr/bin/cc")
    if name == "headers":
        monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nonexistent")


@pytest.mark.parametrize(
    ("name", "platform", "reason", "cure"),
    [
        ("triton", "linux", "Triton is not installed", "pip install triton"),
        ("triton", "win32", "Triton is not installed", "pip install triton-windows"),
        ("compiler", "linux", "C compiler", "sudo apt install gcc"),
        ("headers", "linux", "Python.h", "-dev"),
        ("nothing", "darwin", "darwin", "Linux"),
    ],
)
def test_a_missing_part_is_named_with_its_cure(monkeypatch, name, platform, reason, cure):
    without(monkeypatch, name)
    found = missing(platform)
    assert reason in found.reason
    assert cure in found.cure
    assert "\n" not in str(found)


def test_nothing_is_missing_on_windows_with_triton(monkeypatch):
    without(monkeypatch, "compiler")
    assert missing("win32") is None


@pytest.mark.skipif(missing() is not None, reason="Triton or a compiler is missing")
def test_a_kernel_that_fails_is_reported_in_one_line(monkeypatch, triton_interpreter):
    assert kernel_error(torch.device("cpu")) is None

    def fail(device):
        raise RuntimeError("ptxas failed\nwith a long log")

    monkeypatch.setattr(requirements, "_one_kernel", fail)
    assert kernel_error(torch.device("cpu")).reason == "a Triton kernel failed (ptxas failed)"
    monkeypatch.setattr(requirements, "_one_kernel", lambda device: torch.zeros(2))
    assert "wrong numbers" in kernel_error(torch.device("cpu")).reason


def test_doctor_names_what_is_missing_and_its_cure(monkeypatch):
    lack = requirements.Missing("Triton is not installed", "pip install triton")
    monkeypatch.setattr(requirements, "kernel_error", lambda device: lack)
    finding = machine._kernels()
    assert "Triton is not installed" in finding.found
    assert finding.advice == "pip install triton"
    monkeypatch.setattr(requirements, "kernel_error", lambda device: None)
    assert machine._kernels().advice == ""
