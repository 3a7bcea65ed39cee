"""Int4 with error feedback: an oracle, and inputs for which a factorization is not obvious."""

import pytest
import torch

from tests.checkpoints import GENERATIONS, small_checkpoints
from tests.oracles import error_feedback as oracle
from wkv.checkpoint import open_checkpoint
from wkv.checkpoint.error_feedback import feedback_factor, quantize_with_feedback
from wkv.checkpoint.packing import Format, quantize
from wkv.convert import calibrate
from wkv.convert.calibrate import input_moments
from wkv.convert.quantize import quantize as quantize_file
from wkv.errors import InputError, TokenizerError
from wkv.inference.describe import describe


@pytest.fixture(scope="module")
def checkpoint_paths(tmp_path_factory):
    """Give a small random .pth file for each generation."""
    return small_checkpoints(tmp_path_factory.mktemp("small"))


def case(outputs=24, inputs=320, samples=900, seed=0, dtype=torch.float64):
    """Give a matrix, and the moments of correlated inputs of very different sizes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = normal(samples, 40) @ normal(40, inputs) + normal(samples, inputs)
    x *= torch.linspace(0.2, 3, inputs, dtype=torch.float64)
    return normal(outputs, inputs).to(dtype), (x.t() @ x / samples).to(dtype)


def values(q, scales, inputs):
    groups = (q.double() - 8).view(*scales.shape, 32) * scales.double()[..., None]
    return groups.flatten(1)[:, :inputs]


def loss(weight, rounded, moments):
    change = weight.double() - rounded
    return float(((change @ moments.double()) * change).sum())


def test_columns_are_rounded_as_the_oracle_rounds_them():
    weight, moments = case()
    expected = oracle.quantize(weight, moments)
    found = values(*quantize_with_feedback(weight, moments), weight.shape[1])
    # A weight halfway between two integers may be rounded either way, which changes its row.
    rows = (found - expected).abs().amax(1) < 1e-9
    assert rows.float().mean() >= 0.9
    assert loss(weight, found, moments) == pytest.approx(loss(weight, expected, moments), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("inputs", "samples"), [(320, 900), (100, 900), (300, 7), (1, 50)])
def test_the_outputs_change_less_than_by_rounding_to_the_nearest(dtype, inputs, samples):
    weight, moments = case(inputs=inputs, samples=samples, dtype=dtype)
    found = values(*quantize_with_feedback(weight, moments), inputs)
    nearest = values(*quantize(weight.float(), Format.int4), inputs)
    factor = 1.0 if inputs == 1 else 0.6
    assert loss(weight, found, moments) <= factor * loss(weight, nearest, moments) + 1e-9
    single = values(*quantize_with_feedback(weight.float(), moments.float()), inputs)
    assert loss(weight, single, moments) <= factor * loss(weight, nearest, moments) + 1e-9


def test_rows_do_not_depend_on_each_other(monkeypatch):
    weight, moments = case(outputs=50)
    whole = quantize_with_feedback(weight, moments)
    monkeypatch.setattr("wkv.checkpoint.error_feedback.OUTPUTS_AT_ONCE", 7)
    for expected, found in zip(whole, quantize_with_feedback(weight, moments), strict=True):
        assert torch.equal(expected, found)


def test_without_moments_every_weight_is_rounded_to_the_nearest():
    weight, moments = case(dtype=torch.float32)
    expected = quantize(weight, Format.int4)
    for useless in (torch.zeros_like(moments), torch.full_like(moments, float("nan"))):
        for a, b in zip(expected, quantize_with_feedback(weight, useless), strict=True):
            assert torch.equal(a, b)


def test_inputs_that_are_always_zero_and_columns_of_one_value():
    weight, moments = case(inputs=96)
    dead = torch.zeros(96, dtype=torch.bool)
    dead[[0, 5, *range(32, 64)]] = True
    moments[dead], moments[:, dead] = 0, 0
    weight[:, 70], weight[:, 71] = 0, 0.5
    found = values(*quantize_with_feedback(weight, moments), 96)
    nearest = values(*quantize(weight.float(), Format.int4), 96)
    assert found.isfinite().all()
    assert torch.equal(found[:, 32:64], nearest[:, 32:64])
    assert loss(weight, found, moments) < loss(weight, nearest, moments)
    zero = values(*quantize_with_feedback(torch.zeros_like(weight), moments), 96)
    assert torch.equal(zero, torch.zeros_like(zero))


def test_a_factor_inverts_the_damped_moments_whatever_their_rank():
    for samples in (1, 5, 400):
        _, moments = case(inputs=64, samples=samples)
        U, importance = feedback_factor(moments)
        damped = moments + (importance - moments.diagonal()).diag()
        assert torch.equal(U, U.triu())
        assert torch.allclose(U.t() @ U @ damped, torch.eye(64, dtype=torch.float64), atol=1e-8)
    broken = moments.clone()
    broken[3, 4] = broken[4, 3] = float("inf")
    assert torch.equal(feedback_factor(broken)[0], torch.eye(64, dtype=torch.float64))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The lamp turned; a long white finger touched the roofs. " * 20)
    return path


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_is_calibrated(checkpoint_paths, tmp_path, text, generation):
    """The file differs from one that is rounded to the nearest only in its int4 matrices."""
    source = checkpoint_paths[generation]
    ways = {"calibrated": text, "nearest": None}
    done = {
        way: quantize_file(source, tmp_path / way, to="int4", calibrate=path, tokenizer="bytes")
        for way, path in ways.items()
    }
    assert [one.calibration_tokens > 1000 for one in done.values()] == [True, False]
    assert done["calibrated"].n_bytes == done["nearest"].n_bytes
    found, nearest = (open_checkpoint(one.path) for one in done.values())
    changed = {name for name in found if not torch.equal(found[name], nearest[name])}
    packed = {n for n in found if n.endswith(".weight") and found[n].dtype == torch.uint8}
    assert "head.weight" in changed
    assert changed == {name for name in packed if not name.endswith("s_emb.weight")}


def test_moments_are_those_of_the_inputs(checkpoint_paths, monkeypatch):
    description = describe(checkpoint_paths["7"])
    pieces = [[5, 250, 17, 3, 99], [1, 0, 42]]
    (whole,) = input_moments(description, pieces)
    monkeypatch.setattr(calibrate, "BYTES_AT_ONCE", 2**17)
    parts = list(input_moments(description, pieces))
    assert len(parts) > 1
    for name, H in {name: H for part in parts for name, H in part.items()}.items():
        assert torch.equal(H, whole[name])
        assert torch.equal(H, H.t())
    import wkv

    model = wkv.load(checkpoint_paths["7"], "cpu fp32", engine="torch")
    X = torch.cat([model.network.ln_out(model.hidden(piece)[0]) for piece in pieces])
    assert torch.allclose(whole["head.weight"], X.t() @ X / len(X), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "match"),
    [("", "has 0 tokens, expected at least 256"), ("Too short.", "has 10 tokens")],
)
def test_a_text_that_is_too_short_is_one_clear_error(checkpoint_paths, tmp_path, content, match):
    text = tmp_path / "short.txt"
    text.write_text(content)
    arguments = {"to": "int4", "calibrate": text, "tokenizer": "bytes"}
    with pytest.raises(InputError, match=match):
        quantize_file(checkpoint_paths["7"], tmp_path / "x", **arguments)
    assert not list(tmp_path.glob("*x*.safetensors"))


def test_a_text_needs_a_tokenizer(checkpoint_paths, tmp_path, text):
    with pytest.raises(TokenizerError):
        quantize_file(checkpoint_paths["7"], tmp_path / "x", to="int4", calibrate=text)
    done = quantize_file(checkpoint_paths["7"], tmp_path / "x", to="int4")
    assert done.calibration_tokens == 0
