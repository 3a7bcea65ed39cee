"""Files of web-rwkv and ai00, written here as their converters write them."""

import re

import pytest
import torch
from safetensors.torch import save_file

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth

IDS = [5, 250, 17, 3, 99, 99, 1, 0, 42, 7, 123, 299]
RENAMED = {"time_faaaa": "time_first", "time_maa": "time_mix"}
TRANSPOSED = ("time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2",
              "w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2", "time_state")  # fmt: skip


def web_rwkv(tensors, *, times=1):
    """Rename and transpose as the converter does; a newer script transposes some names twice."""
    if "blocks.0.att.gate.weight" in tensors and tensors["blocks.0.att.time_decay"].dim() == 1:
        width = tensors["emb.weight"].shape[1]
        tensors = {
            name: tensor[:, None].repeat(1, width // len(tensor))
            if name.endswith(("time_decay", "time_faaaa"))
            else tensor
            for name, tensor in tensors.items()
        }
    made = {}
    for name, tensor in tensors.items():
        for official, theirs in RENAMED.items():
            name = name.replace(official, theirs)
        if any(part in name for part in TRANSPOSED) and times == 1:
            tensor = tensor.transpose(-1, -2)
        made[name] = tensor.half().contiguous()
    return made


def logits(path):
    return wkv.load(path, "cpu fp32").forward(IDS, all_logits=True)[0]


def check(tensors, path, *, exact=True, **options):
    """Compare the logits of both layouts."""
    save_pth({name: tensor.half() for name, tensor in tensors.items()}, path.with_suffix(".pth"))
    save_file(web_rwkv(tensors, **options), path, metadata={"format": "pt"})
    expected, found = logits(path.with_suffix(".pth")), logits(path)
    assert torch.equal(expected, found) if exact else torch.allclose(expected, found, atol=1e-5)
    return wkv.load(path)


def with_square_factors(tensors):
    """Give every low-rank factor the rank D."""
    width = tensors["emb.weight"].shape[1]
    generator = torch.Generator().manual_seed(1)
    made = {}
    for name, tensor in tensors.items():
        if re.search(r"att\.([wavg]|time_decay_w)[12]$", name):
            tensor = torch.randn(width, width, generator=generator) / width**0.5
        elif name.endswith("time_maa_w1"):
            tensor = torch.randn(width, 5 * width, generator=generator) / width**0.5
        elif name.endswith("time_maa_w2"):
            tensor = torch.randn(5, width, width, generator=generator) / width**0.5
        made[name] = tensor
    return made


@pytest.mark.parametrize("ending", [".st", ".safetensors"])
@pytest.mark.parametrize("generation", GENERATIONS[:-1])
def test_every_generation_is_read(tmp_path, generation, ending):
    model = check(random_checkpoint(generation), tmp_path / f"m{ending}", exact=generation != "5.1")
    assert model.config.generation == generation.replace("5.1", "5.2")
    assert model.layout == ("safetensors" if generation in ("4", "5.0") else "web-rwkv")


@pytest.mark.parametrize("generation", ["6", "7"])
def test_square_factors_are_read(tmp_path, generation):
    check(with_square_factors(random_checkpoint(generation)), tmp_path / "m.st")


@pytest.mark.parametrize("which", ["w", "a", "v", "g"])
def test_one_square_factor_is_read_like_the_others(tmp_path, which):
    tensors = random_checkpoint("7")
    square = with_square_factors(tensors)
    mixed = {name: square[name] if f"att.{which}" in name else tensors[name] for name in tensors}
    check(mixed, tmp_path / "m.safetensors")


@pytest.mark.parametrize("generation", ["6", "7"])
def test_factors_that_a_converter_did_not_transpose_are_read(tmp_path, generation):
    check(random_checkpoint(generation), tmp_path / "m.st", times=2)


def test_official_files_with_square_factors_are_read_as_before(tmp_path):
    tensors = with_square_factors(random_checkpoint("7"))
    save_pth(tensors, tmp_path / "m.pth")
    save_file(tensors, tmp_path / "m.safetensors")
    assert torch.equal(logits(tmp_path / "m.pth"), logits(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("generation", ["5.2", "6", "7"])
def test_tuned_states_are_turned_back(tmp_path, generation):
    tensors = random_checkpoint(generation)
    for block in range(3):
        tensors[f"blocks.{block}.att.time_state"] = torch.randn(4, 32, 32)
    model = check(tensors, tmp_path / "m.st")
    assert model.new_state().layers[0].wkv.abs().sum() > 0


def test_it_can_be_converted_and_quantized(tmp_path):
    from wkv.convert.checkpoint_file import convert
    from wkv.convert.quantize import quantize

    check(random_checkpoint("6"), tmp_path / "m.st")
    convert(tmp_path / "m.st", tmp_path / "again.pth")
    assert torch.equal(logits(tmp_path / "again.pth"), logits(tmp_path / "m.st"))
    quantize(tmp_path / "m.st", tmp_path / "small", to="int8")
    assert torch.allclose(logits(tmp_path / "small.safetensors"), logits(tmp_path / "m.st"), atol=1)
