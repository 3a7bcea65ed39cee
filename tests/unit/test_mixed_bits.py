"""Which matrices become int8 in an int4 file: the order, and both limits."""

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS, small_checkpoints
from wkv.checkpoint.packing import Format, Layout, pack
from wkv.convert import mixture
from wkv.convert.mixed_bits import Candidates, order_by_loss, within_bits, within_divergence
from wkv.convert.mixture import Limit
from wkv.convert.quantize import quantize
from wkv.inference.describe import describe

LOSSES = {"a": 8.0, "b": 1.0, "c": 6.0, "d": 0.5}
OUTPUTS = {"a": 64, "b": 16, "c": 32, "d": 16}


@pytest.fixture(scope="module")
def checkpoint_paths(tmp_path_factory):
    """Give a small random .pth file for each generation; every matrix is measured alone."""
    return small_checkpoints(tmp_path_factory.mktemp("small"))


def candidates():
    weights = {name: torch.ones(count, 32) for name, count in OUTPUTS.items()}
    small, large = (
        {name: pack(weight, format, Layout.blocks) for name, weight in weights.items()}
        for format in (Format.int4, Format.int8)
    )
    factor = pack(torch.ones(16, 32), Format.int8, Layout.blocks)
    return Candidates({**small, "factor": factor}, large)


def loss(matrices):
    return sum(LOSSES[name] for name in LOSSES if matrices[name].format is Format.int4)


def test_the_order_is_that_of_loss_per_byte():
    assert order_by_loss(candidates(), loss) == ["c", "a", "b", "d"]


def test_a_limit_of_bits_takes_what_fits():
    order = ["c", "a", "b", "d"]
    found = {bits: within_bits(candidates(), order, bits) for bits in (4.5, 5, 5.51, 6.5, 8.5)}
    assert found == {
        4.5: [],
        5: ["b"],  # c would need 5.5
        5.51: ["c"],
        6.5: ["c", "b", "d"],
        8.5: order,
    }
    assert candidates().bits(["c"]) == 4.5 + 4 * 32 / 128


@pytest.mark.parametrize(("limit", "count"), [(16, 0), (15.5, 0), (9.5, 1), (9.4, 2), (0.5, 3)])
def test_a_limit_of_the_divergence_takes_as_few_as_possible(limit, count):
    order = ["c", "a", "b", "d"]
    assert within_divergence(candidates(), order, limit, loss) == order[:count]
    with pytest.raises(wkv.InputError, match="with all matrices in int8 the KL divergence is 0"):
        within_divergence(candidates(), order, -1, loss)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_mixed_file_of_every_generation(checkpoint_paths, tmp_path, generation):
    """It loads as `cpu int4`, with the formats of the file; verification compares the logits."""
    done = quantize(checkpoint_paths[generation], tmp_path / "x", to="int4", limit=Limit(bits=6))
    packed = describe(done.path).checkpoint
    assert done.int8_matrices
    for name in done.int8_matrices:
        assert packed.read_packed(name).format is Format.int8
    model = wkv.load(done.path)
    assert str(model.strategy) == "cpu int4"
    exact, nearest = (
        wkv.load(checkpoint_paths[generation], strategy) for strategy in ("cpu fp32", "cpu int4")
    )
    ids = list(range(1, 40))
    want, mixed, small = (one.forward(ids, all_logits=True)[0] for one in (exact, model, nearest))
    assert (mixed - want).square().mean() < (small - want).square().mean()


@pytest.mark.parametrize(
    ("limit", "to", "match"),
    [
        (Limit(), "int4", "give one of them"),
        (Limit(bits=5, max_kl=1), "int4", "give one of them"),
        (Limit(bits=4.4), "int4", "bits is 4.4, expected 4.5"),
        (Limit(bits=float("nan")), "int4", "bits is nan"),
        (Limit(max_kl=-1), "int4", "max_kl is -1"),
        (Limit(bits=5), "int8", "int8 was given, use int4"),
    ],
)
def test_a_limit_out_of_range(checkpoint_paths, tmp_path, limit, to, match):
    with pytest.raises(wkv.InputError, match=match):
        quantize(checkpoint_paths["7"], tmp_path / "x", to=to, limit=limit)


def test_a_divergence_that_cannot_be_reached_saves_nothing(checkpoint_paths, tmp_path):
    with pytest.raises(wkv.InputError, match="with all matrices in int8"):
        quantize(checkpoint_paths["4"], tmp_path / "x", to="int4", limit=Limit(max_kl=0))
    assert not list(tmp_path.iterdir())
    limit = Limit(max_kl=1.5, measure=lambda before, after: 1.0)
    done = quantize(checkpoint_paths["4"], tmp_path / "x", to="int4", limit=limit)
    assert done.int8_matrices == ()


def test_matrices_are_chosen_on_the_text_of_the_limit(checkpoint_paths, tmp_path, monkeypatch):
    monkeypatch.setattr(mixture, "order_by_loss", lambda both, *_: list(both.large))
    windows = []
    split = mixture._windows
    monkeypatch.setattr(
        mixture, "_windows", lambda ids, size: windows.append(split(ids, size)) or windows[-1]
    )
    ids = [i % 300 for i in range(200)]
    limit = Limit(bits=8.5, choose_on=lambda model: ids)
    quantize(checkpoint_paths["7"], tmp_path / "x", to="int4", limit=limit)
    assert windows[0].tolist() == [ids[:64], ids[66:130], ids[132:196]]
