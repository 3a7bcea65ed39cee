"""The compiled recurrence against the torch form, forward and backward."""

import pytest
import torch

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


@pytest.mark.parametrize(("B", "T", "H", "N"), [(2, 33, 2, 64), (1, 5, 3, 16), (3, 16, 1, 32)])
def test_compiled_recurrence_equals_the_definition(fast, B, T, H, N):
    inputs = random_inputs(B, T, H, N)
    dy, dstate = torch.randn(B, T, H, N), torch.randn(B, H, N, N)
    results = []
    for function in (fast, wkv7_recurrent):
        y, state = function(*inputs)
        loss = (y * dy).sum() + (state * dstate).sum()
        results.append([y, state, *torch.autograd.grad(loss, inputs)])
    for name, mine, theirs in zip(("y", "last", *NAMES), *results, strict=True):
        error = (mine - theirs).norm() / theirs.norm()
        assert error < 5e-6, name


def test_compiled_recurrence_differentiates_y_alone(fast):
    inputs = random_inputs(1, 20, 1, 16)
    mine = torch.autograd.grad(fast(*inputs)[0].square().sum(), inputs)
    theirs = torch.autograd.grad(wkv7(*inputs)[0].square().sum(), inputs)
    for name, left, right in zip(NAMES, mine, theirs, strict=True):
        assert (left - right).norm() / right.norm() < 5e-6, name


def test_unknown_head_size_is_an_error(fast):
    with pytest.raises(ValueError, match="head sizes"):
        fast(*random_inputs(1, 2, 1, 8))


@pytest.fixture
def uncached(monkeypatch, tmp_path):
    """Nothing is compiled yet, and the cache is a folder of the test."""
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path)
    compiled._library.cache_clear()
    yield tmp_path
    compiled._library.cache_clear()


def test_without_a_compiler_the_torch_form_is_used(monkeypatch, uncached):
    monkeypatch.setattr(compiled, "COMPILERS", ("no-such-compiler",))
    function, notice = compiled.recurrence(threads=1)
    assert function is wkv7
    assert "no C++ compiler was found (no-such-compiler)" in notice


def test_library_that_cannot_be_loaded_falls_back_to_the_torch_form(monkeypatch, uncached):
    broken = uncached / "broken.so"
    broken.write_text("no library at all, but longer than the header of one" * 20)
    monkeypatch.setattr(compiled, "build", lambda cache: broken)
    function, notice = compiled.recurrence(threads=1)
    assert function is wkv7
    assert "broken.so" in notice


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "Full")])
def test_cache_that_cannot_be_written_falls_back_to_the_torch_form(monkeypatch, uncached, error):
    def refuse(**_):
        raise error

    monkeypatch.setattr(compiled, "COMPILERS", ("true",))
    monkeypatch.setattr(compiled.tempfile, "TemporaryDirectory", refuse)
    function, notice = compiled.recurrence(threads=1)
    assert function is wkv7
    assert error.strerror in notice
