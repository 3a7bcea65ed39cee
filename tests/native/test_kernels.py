"""Every kernel that runs here, against products in float64 and against the plain kernel.

Bounds are shares of the largest output. What a kernel rounds its activations to is done here too.
"""

import ctypes
import zlib
from pathlib import Path

import pytest
import torch

from wkv.checkpoint.packing import GROUP, Format, Layout, layout_for, pack, unpack
from wkv.native import library, steps

TO_FLOAT64, TO_PLAIN = 3e-6, 2e-6
AS_FP32, AS_BF16, AS_INT8 = 1, 2, 4
SHAPES = ((1, 1), (5, 7), (33, 65), (130, 250), (300, 2100))
ROWS = (1, 2, 3, 5, 9, 17, 70)
WAYS = [
    (format, layout_for(format, sparse_inputs=sparse)) for format in Format for sparse in (0, 1)
]

each_way = pytest.mark.parametrize(
    ("format", "layout"), WAYS, ids=[f"{format.name}-{layout.name}" for format, layout in WAYS]
)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=[f"{m}x{k}" for m, k in SHAPES])


def random_numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(zlib.crc32(repr((shape, seed)).encode()))
    return torch.randn(*shape, generator=generator)


def random_matrix(format, layout, outputs, inputs):
    return pack(random_numbers(outputs, inputs) / inputs**0.5, format, layout)


def activations(layout, rows, inputs):
    """Most are zero, as after a squared ReLU, for the layout that is meant for it."""
    x = random_numbers(rows, inputs, seed=1)
    return torch.relu(x - 0.5) ** 2 if layout is Layout.columns else x


def as_read(engine, name, format, x):
    """What kernels round activations to."""
    form = engine.wkv_form(name.encode(), format)
    if form == AS_FP32:
        return x
    if form == AS_BF16:
        return x.bfloat16().float()
    assert form == AS_INT8
    rows, inputs = x.shape
    groups = torch.nn.functional.pad(x, (0, -inputs % GROUP)).view(rows, -1, GROUP)
    scales = groups.abs().amax(2, keepdim=True)
    whole = torch.where(scales == 0, 0, groups * (127 / scales)).round()
    return (whole.double() * (scales.double() / 127)).view(rows, -1)[:, :inputs]


def difference(y, right):
    return ((y - right).abs().max() / right.abs().max().clamp(min=1e-30)).item()


@each_way
@each_shape
def test_every_kernel_is_the_product_of_the_weights_it_was_given(
    engine, kernels, product, format, layout, shape
):
    packed = random_matrix(format, layout, *shape)
    weights = unpack(packed).double()
    for rows in ROWS:
        x = activations(layout, rows, shape[1])
        plain = product("plain", packed, x)
        for name in kernels:
            y = product(name, packed, x, threads=rows % 3 + 1)
            right = as_read(engine, name, format, x).double() @ weights.T
            assert difference(y, right) < TO_FLOAT64, (name, rows)
            same_form = engine.wkv_form(name.encode(), format) == engine.wkv_form(b"plain", format)
            assert not same_form or difference(y, plain) < TO_PLAIN, (name, rows)


@each_way
def test_kernels_that_round_activations_to_bf16_are_like_plain_on_what_is_bf16(
    kernels, product, format, layout
):
    packed = random_matrix(format, layout, 130, 250)
    x = activations(layout, 5, 250).bfloat16().float()
    plain = product("plain", packed, x)
    for name in kernels:
        assert difference(product(name, packed, x), plain) < TO_PLAIN, name


@each_way
def test_the_number_of_threads_changes_nothing(kernels, product, format, layout):
    packed = random_matrix(format, layout, 1000, 96)
    for rows in (1, 6):
        x = activations(layout, rows, 96)
        for name in kernels:
            alone = product(name, packed, x)
            for threads in (2, 3):
                assert torch.equal(product(name, packed, x, threads), alone), (name, rows)


@each_way
def test_products_of_columns_take_inputs_without_zeros_and_others_take_zeros(
    engine, kernels, product, format, layout
):
    packed = random_matrix(format, layout, 130, 250)
    weights = unpack(packed).double()
    other = Layout.rows if layout is Layout.columns else Layout.columns
    for rows in (1, 5):
        x = activations(other, rows, 250)
        for name in kernels:
            right = as_read(engine, name, format, x).double() @ weights.T
            assert difference(product(name, packed, x), right) < TO_FLOAT64, (name, rows)


@each_way
def test_a_row_alone_is_that_row_among_many(kernels, product, format, layout):
    packed = random_matrix(format, layout, 130, 250)
    x = activations(layout, 70, 250)
    for name in kernels:
        together = product(name, packed, x)
        for row in (0, 1, 63, 64, 69):
            alone = product(name, packed, x[row : row + 1])
            assert difference(alone, together[row : row + 1]) < TO_FLOAT64, (name, row)


@each_way
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_stays_so_and_leaves_the_others_alone(
    kernels, product, format, layout, bad
):
    packed = random_matrix(format, layout, 130, 250)
    for rows, at in ((1, 0), (3, 1), (9, 8), (70, 30)):
        x = activations(layout, rows, 250)
        spoilt = x.clone()
        spoilt[at, 249] = bad
        others = torch.arange(rows) != at
        for name in kernels:
            y = product(name, packed, spoilt)
            assert not y[at].isfinite().any(), (name, rows)
            assert torch.equal(y[others], product(name, packed, x)[others]), (name, rows)


@each_way
def test_zeros_give_zeros(kernels, product, format, layout):
    packed = random_matrix(format, layout, 130, 250)
    for name in kernels:
        for rows in (1, 5):
            assert not product(name, packed, torch.zeros(rows, 250)).any(), name


@each_way
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_huge_and_tiny_activations_are_multiplied_like_others(
    engine, kernels, product, format, layout, size
):
    packed = random_matrix(format, layout, 130, 256)
    weights = unpack(packed).double()
    for rows in (1, 5):
        x = activations(layout, rows, 256) * size
        for name in kernels:
            y = product(name, packed, x).double() / size
            right = as_read(engine, name, format, x).double() @ weights.T / size
            assert difference(y, right) < TO_FLOAT64, (name, rows)


@each_way
def test_groups_of_very_different_sizes_do_not_disturb_each_other(
    engine, kernels, product, format, layout
):
    """Each group of activations has its own scale."""
    weights = torch.eye(256)
    packed = pack(weights, format, layout)
    x = activations(layout, 5, 256) * torch.logspace(-6, 6, 8).repeat_interleave(GROUP)
    for name in kernels:
        y = product(name, packed, x).view(5, 8, GROUP)
        right = (as_read(engine, name, format, x).double() @ unpack(packed).double().T).view_as(y)
        for group in range(8):
            assert difference(y[:, group], right[:, group]) < TO_FLOAT64, (name, group)


def test_reading_memory_takes_time(engine, kernels):
    memory = torch.zeros(2**20 + 12345, dtype=torch.uint8)
    for name in kernels:
        for threads in (1, 2):
            seen = ctypes.c_uint64()
            took = engine.wkv_stream(
                name.encode(), memory.data_ptr(), len(memory), threads, ctypes.byref(seen)
            )
            assert 0 < took < 10, name
            assert seen.value == 0


def test_unknown_kernels_are_refused(engine, kernels):
    assert "plain" in kernels
    assert engine.wkv_form(b"abacus", Format.fp32) < 0
    assert engine.wkv_form(b"plain", len(Format)) < 0
    assert not engine.wkv_plan(b"abacus", 1)


def test_a_library_with_other_structs_is_an_error(engine, monkeypatch):
    class Longer(steps.Gated):
        _fields_ = [("more", ctypes.c_int32)]  # noqa: RUF012

    path = Path(engine._name)
    assert library.open_library(path).wkv_version() == library.VERSION
    monkeypatch.setattr(library, "STRUCTS", (*steps.STRUCTS, Longer))
    with pytest.raises(library.LibraryMissing, match="a gated step has 12 bytes, expected 16"):
        library.open_library(path)
    found = library.VERSION
    monkeypatch.setattr(library, "VERSION", 1)
    with pytest.raises(library.LibraryMissing, match=f"version {found}, expected 1"):
        library.open_library(path)


def test_unknown_steps_are_rejected(engine, kernels):
    plan = engine.wkv_plan(kernels[0].encode(), 1)
    step = ctypes.addressof(steps.Gated())
    assert engine.wkv_step(plan, len(steps.StepList), steps.Kind.gated, 0, step) < 0
    assert engine.wkv_step(plan, steps.StepList.body, len(steps.Kind), 0, step) < 0
    assert engine.wkv_step_size(len(steps.Kind)) < 0
    engine.wkv_plan_free(plan)
