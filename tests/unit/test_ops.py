"""Each recurrence: the chunked form against the loop, its gradients, and its extremes."""

import pytest
import torch

from wkv.ops.wkv4 import MINUS_INFINITY, wkv4_chunked, wkv4_recurrent
from wkv.ops.wkv5 import wkv5_chunked, wkv5_recurrent
from wkv.ops.wkv6 import wkv6_chunked, wkv6_recurrent
from wkv.ops.wkv7 import wkv7_chunked, wkv7_recurrent

TOKENS = (1, 2, 15, 16, 17, 31, 33, 64, 100)
HEADS, SIZE = 2, 8


def _random(seed, *shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def arguments4(tokens, batch, dtype=torch.float32, strength=1.0):
    channels = 12
    raw, bonus, k, v, aa, bb, pp = _random(
        0,
        (channels,),
        (channels,),
        (batch, tokens, channels),
        (batch, tokens, channels),
        *[(batch, channels)] * 3,
        dtype=dtype,
    )
    state = torch.stack([aa, bb.abs() + 0.1, pp], 1)
    return [-torch.exp(raw * strength), bonus, k * 3, v, state]


def arguments5(tokens, batch, dtype=torch.float32, strength=1.0, decay_size=SIZE):
    shape = (batch, tokens, HEADS, SIZE)
    r, k, v, raw, u, state = _random(
        1, *[shape] * 3, *[(HEADS, decay_size)] * 2, (batch, HEADS, SIZE, SIZE), dtype=dtype
    )
    return [r, -torch.exp(raw * strength), k, v, u, state]


def arguments5_per_head(tokens, batch, dtype=torch.float32, strength=1.0):
    return arguments5(tokens, batch, dtype, strength, decay_size=1)


def arguments6(tokens, batch, dtype=torch.float32, strength=1.0):
    shape = (batch, tokens, HEADS, SIZE)
    r, k, v, raw, u, state = _random(
        2, *[shape] * 4, (HEADS, SIZE), (batch, HEADS, SIZE, SIZE), dtype=dtype
    )
    return [r, -torch.exp(raw * strength), k, v, u, state]


def arguments7(tokens, batch, dtype=torch.float32, strength=1.0):
    shape = (batch, tokens, HEADS, SIZE)
    r, raw, k, v, kappa, rate, state = _random(
        3, *[shape] * 6, (batch, HEADS, SIZE, SIZE), dtype=dtype
    )
    kappa = torch.nn.functional.normalize(kappa, dim=-1)
    log_decay = -0.60653066 * torch.sigmoid(raw * strength)
    return [r, log_decay, k, v, -kappa, kappa * torch.sigmoid(rate), state]


FORMS = {
    "wkv4": (arguments4, wkv4_recurrent, wkv4_chunked),
    "wkv5": (arguments5, wkv5_recurrent, wkv5_chunked),
    "wkv5 per head": (arguments5_per_head, wkv5_recurrent, wkv5_chunked),
    "wkv6": (arguments6, wkv6_recurrent, wkv6_chunked),
    "wkv7": (arguments7, wkv7_recurrent, wkv7_chunked),
}
every_form = pytest.mark.parametrize("form", FORMS, ids=str)


@every_form
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("strength", [0.1, 1.0, 4.0], ids=["even", "usual", "extreme"])
def test_chunked_equals_recurrent(form, tokens, batch, strength):
    make, recurrent, chunked = FORMS[form]
    arguments = make(tokens, batch, strength=strength)
    before = [argument.clone() for argument in arguments]
    y, state = recurrent(*arguments)
    y_chunked, state_chunked = chunked(*arguments)
    scale = y.abs().max().clamp(min=1)
    assert torch.isfinite(y_chunked).all()
    assert (y - y_chunked).abs().max() <= 3e-6 * scale
    assert (state - state_chunked).abs().max() <= 1e-5 * state.abs().max().clamp(min=1)
    assert all(torch.equal(old, new) for old, new in zip(before, arguments, strict=True))


@every_form
def test_gradients_of_chunked_equal_those_of_recurrent(form):
    make, recurrent, chunked = FORMS[form]
    gradients = []
    for function in (recurrent, chunked):
        arguments = [a.requires_grad_() for a in make(37, 2, dtype=torch.float64)]
        y, state = function(*arguments)
        # Of generation 4 only ratios have a meaning; the others are read out as they are.
        read = state[:, 0] / state[:, 1] if form == "wkv4" else state
        (y.square().sum() + read.sin().sum()).backward()
        gradients.append([a.grad for a in arguments])
    for ours, theirs in zip(*gradients, strict=True):
        if ours is not None and theirs is not None:
            assert (ours - theirs).abs().max() <= 1e-9 * ours.abs().max().clamp(min=1)


def test_wkv4_padding_changes_nothing():
    log_decay, bonus, k, v, state = arguments4(20, 1)
    real = (torch.arange(20) < 13)[None, :, None]
    masked = wkv4_chunked(log_decay * real, bonus, k.where(real, MINUS_INFINITY), v, state)[1]
    alone = wkv4_chunked(log_decay, bonus, k[:, :13], v[:, :13], state)[1]
    assert (masked - alone).abs().max() <= 1e-5


def test_wkv4_from_the_empty_state_is_the_first_value():
    log_decay, bonus, k, v, state = arguments4(5, 1)
    empty = torch.zeros_like(state)
    empty[:, 2] = MINUS_INFINITY
    y, _ = wkv4_recurrent(log_decay, bonus, k, v, empty)
    assert torch.allclose(y[:, 0], v[:, 0])


def test_wkv6_with_decays_far_below_float_range():
    r, _, k, v, u, state = arguments6(40, 1)
    log_decay = torch.full_like(k, -300.0)
    y, after = wkv6_chunked(r, log_decay, k, v, u, state)
    expected, expected_state = wkv6_recurrent(r, log_decay, k, v, u, state)
    assert torch.allclose(y, expected, atol=1e-5)
    assert torch.allclose(after, expected_state, atol=1e-6)
