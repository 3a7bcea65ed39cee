"""Packing weights and reading them back, without the native library."""

import pytest
import torch

from wkv.checkpoint.packing import GROUP, Format, Layout, layout_for, pack, quantize, unpack

SHAPES = ((1, 1), (5, 7), (16, 32), (33, 65), (130, 250), (300, 1000))
WAYS = [
    (format, layout_for(format, sparse_inputs=sparse)) for format in Format for sparse in (0, 1)
]

each_way = pytest.mark.parametrize(
    ("format", "layout"), WAYS, ids=[f"{format.name}-{layout.name}" for format, layout in WAYS]
)
each_integer_layout = pytest.mark.parametrize("layout", [Layout.blocks, Layout.columns])


def random_weights(outputs, inputs):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(outputs))


def round_trip(weight, format, layout=None):
    layout = layout_for(format) if layout is None else layout
    return unpack(pack(weight, format, layout))


def grouped(matrix):
    """(outputs, groups, 32), with zeros after the last input."""
    padded = torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % GROUP))
    return padded.view(len(matrix), -1, GROUP)


@each_way
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_read_back_is_what_was_written(format, layout, shape):
    weight = random_weights(*shape)
    back = round_trip(weight, format, layout)
    if format.is_integer:
        q, scales = quantize(weight, format)
        centred = grouped(q.float() - (128 if format is Format.int8 else 8))
        right = (centred * scales.float()[..., None]).flatten(1)[:, : shape[1]]
    else:
        right = weight.to(format.dtype).float()
    assert torch.equal(back, right)
    assert back.dtype == torch.float32


@each_way
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_packed_like_float32(format, layout, dtype):
    weight = random_weights(33, 65).to(dtype)
    assert torch.equal(
        round_trip(weight, format, layout), round_trip(weight.float(), format, layout)
    )


@each_way
def test_a_view_is_packed_like_its_copy(format, layout):
    turned = random_weights(65, 33).T
    assert torch.equal(
        round_trip(turned, format, layout), round_trip(turned.contiguous(), format, layout)
    )


@each_way
def test_a_matrix_in_rows_that_needs_no_cast_is_not_copied(format, layout):
    weight = random_weights(5, 7).to(format.dtype)
    shared = pack(weight, format, layout).data.data_ptr() == weight.data_ptr()
    assert shared == (layout is Layout.rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_off_by_half_a_step_at_most(shape):
    weight = random_weights(*shape)
    scales = quantize(weight, Format.int8)[1].float()[..., None]
    error = grouped((round_trip(weight, Format.int8) - weight).abs())
    assert (error <= scales * 0.5001).all()
    # Rounding to bf16 makes a step at most 2^-7 longer than 1/127 of the largest weight.
    assert (scales <= grouped(weight.abs()).amax(2, keepdim=True) / 127 * (1 + 2**-7)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_int4_is_no_worse_than_the_nearest_with_the_full_scale(shape):
    weight = random_weights(*shape)
    groups = grouped(weight)
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scales = (largest / -8).bfloat16().float()
    nearest = (groups / scales).nan_to_num().round().clamp(-8, 7) * scales
    plain = (nearest - groups).square().sum(2)
    found = grouped(round_trip(weight, Format.int4) - weight).square().sum(2)
    assert (found <= plain * 1.0001 + 1e-12).all()
    if weight.numel() > 10000:
        assert found.sum() < plain.sum() * 0.95


@pytest.mark.parametrize("format", [Format.int8, Format.int4])
def test_scales_are_kept_exactly(format):
    """Weights that already are whole multiples of a scale of bf16 come back as they were."""
    least, most = (-127, 127) if format is Format.int8 else (-8, 7)
    whole = torch.randint(least, most + 1, (40, 96), generator=torch.Generator().manual_seed(0))
    whole[:, ::GROUP] = least
    scales = random_weights(40, 3).bfloat16().float()
    if format is Format.int8:
        scales = scales.abs()
    weight = (whole.view(40, 3, GROUP) * scales[..., None]).view(40, 96)
    assert torch.equal(round_trip(weight, format), weight)


@each_way
def test_zeros_stay_zeros(format, layout):
    weight = random_weights(33, 96)
    weight[:, 32:64] = 0
    weight[7] = 0
    back = round_trip(weight, format, layout)
    assert not back[:, 32:64].any()
    assert not back[7].any()
    assert not round_trip(torch.zeros(5, 7), format, layout).any()


@each_way
@pytest.mark.parametrize("value", [1.0, -0.37, 3e-5, 1e4])
def test_groups_of_one_value_keep_it(format, layout, value):
    back = round_trip(torch.full((17, 40), value), format, layout)
    assert torch.allclose(back, torch.tensor(value), rtol=2**-7, atol=2**-25)


@each_integer_layout
def test_one_huge_weight_disturbs_its_own_group_only(layout):
    weight = random_weights(20, 128)
    spoilt = weight.clone()
    spoilt[3, 40] = 1e6
    for format in (Format.int8, Format.int4):
        calm, back = round_trip(weight, format, layout), round_trip(spoilt, format, layout)
        assert back[3, 40] == pytest.approx(1e6, rel=2**-7)
        calm[3, 32:64] = back[3, 32:64]
        assert torch.equal(back, calm)


@each_integer_layout
@pytest.mark.parametrize("format", [Format.int8, Format.int4])
@pytest.mark.parametrize("size", [1e-45, 1e-41, 1e-39, 2e-38, 1e-30, 1e-9, 1e9, 1e17])
def test_sizes_at_the_ends_of_float32_stay_finite_and_near(format, layout, size):
    """Where a scale would have no inverse, below 1e-36, near is anything as small."""
    weight = (random_weights(17, 64).double() * size).float()
    back = round_trip(weight, format, layout)
    assert back.isfinite().all()
    steps = 127 if format is Format.int8 else 4  # int4 may clip the largest weight
    largest = weight.abs().max()
    assert (back - weight).abs().max() <= largest / steps + 1e-36


@each_way
def test_padding_does_not_matter(format, layout):
    """A matrix is written like the corner of a larger one that is zero elsewhere."""
    weight = random_weights(33, 65)
    larger = torch.zeros(300, 224)
    larger[:33, :65] = weight
    back = round_trip(larger, format, layout)
    assert torch.equal(back[:33, :65], round_trip(weight, format, layout))
    assert back.count_nonzero() == back[:33, :65].count_nonzero()


@each_way
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_harm_their_own_group_at_most(format, layout, bad):
    """Refusing them is the loader's business; here nothing breaks and nothing else changes."""
    weight = random_weights(20, 96)
    spoilt = weight.clone()
    spoilt[3, 40] = bad
    back, calm = round_trip(spoilt, format, layout), round_trip(weight, format, layout)
    calm[3, 32:64] = back[3, 32:64]
    assert torch.equal(back.nan_to_num(), calm.nan_to_num())


@each_way
def test_many_weights_are_packed_like_few(format, layout):
    """Pieces are quantized side by side."""
    weight = random_weights(300, 2100)
    back = round_trip(weight, format, layout)
    for rows in (slice(0, 16), slice(120, 140), slice(299, 300)):
        assert torch.equal(back[rows], round_trip(weight[rows], format, layout))


def test_bits_count_the_scales():
    for format in Format:
        packed = pack(torch.zeros(128, 1024), format, layout_for(format))
        assert packed.data.nbytes * 8 == format.bits * 128 * 1024
