"""The native training recurrence against the PyTorch recurrence, forward and backward."""

import pytest
import torch

from wkv.native import library
from wkv.ops.wkv7 import wkv7, wkv7_recurrent
from wkv.train import recurrence as compiled

NAMES = ("receptance", "log_decay", "key", "value", "a", "b", "state")


def random_inputs(B, T, H, N, seed=0):
    source = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=source)

    kappa = torch.nn.functional.normalize(normal(B, T, H, N), dim=-1)
    rate = torch.rand(B, T, H, N, generator=source)
    log_decay = -0.6065 * torch.rand(B, T, H, N, generator=source)
    inputs = (normal(B, T, H, N), log_decay, normal(B, T, H, N), normal(B, T, H, N))
    inputs = (*inputs, -kappa, kappa * rate, normal(B, H, N, N))
    return [x.requires_grad_() for x in inputs]


@pytest.fixture(scope="module")
def fast():
    function, notice = compiled.recurrence(threads=2)
    if notice:
        pytest.skip(notice)
    return function


def compare(function, inputs):
    """Compare results and gradients with those of the definition."""
    B, T, H, N = inputs[0].shape
    dy, dstate = torch.randn(B, T, H, N), torch.randn(B, H, N, N)
    results = []
    for form in (function, wkv7_recurrent):
        y, state = form(*inputs)
        loss = (y * dy).sum() + (state * dstate).sum()
        results.append([y, state, *torch.autograd.grad(loss, inputs)])
    for name, found, expected in zip(("y", "last", *NAMES), *results, strict=True):
        error = (found - expected).norm() / expected.norm()
        assert error < 5e-6, name


@pytest.mark.parametrize(("B", "T", "H", "N"), [(2, 33, 2, 64), (1, 5, 3, 16), (3, 16, 1, 32)])
def test_compiled_recurrence_equals_the_definition(fast, B, T, H, N):
    compare(fast, random_inputs(B, T, H, N))


def test_compiled_recurrence_differentiates_y_alone(fast):
    inputs = random_inputs(1, 20, 1, 16)
    mine = torch.autograd.grad(fast(*inputs)[0].square().sum(), inputs)
    theirs = torch.autograd.grad(wkv7(*inputs)[0].square().sum(), inputs)
    for name, left, right in zip(NAMES, mine, theirs, strict=True):
        assert (left - right).norm() / right.norm() < 5e-6, name


def test_unknown_head_size_is_an_error(fast):
    with pytest.raises(ValueError, match="head sizes"):
        fast(*random_inputs(1, 2, 1, 8))


def test_without_the_library_the_pytorch_recurrence_is_used(monkeypatch):
    monkeypatch.setattr(compiled, "missing_reason", lambda: "it was not built")
    function, notice = compiled.recurrence(threads=1)
    assert function is wkv7
    assert "the native library is missing (it was not built)" in notice


@pytest.mark.parametrize("kernels", library.kernels() if library.missing_reason() is None else ())
def test_every_kind_of_kernels_computes_the_recurrence(monkeypatch, kernels):
    monkeypatch.setattr(compiled, "kernels", lambda: (kernels,))
    function, _ = compiled.recurrence(threads=3)
    for N in compiled.HEAD_SIZES:
        compare(function, random_inputs(2, 18, 3, N))


def test_the_number_of_threads_changes_no_bit(fast):
    inputs = random_inputs(2, 20, 3, 32)
    found = []
    for threads in (1, 2, 5):
        function, _ = compiled.recurrence(threads)
        y, state = function(*inputs)
        found.append([y, state, *torch.autograd.grad(y.sum() + state.sum(), inputs)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
