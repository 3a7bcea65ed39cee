"""`wkv merge` writes the model that base and adapter are together, and says how exactly."""

import os

import pytest
import torch
from safetensors.torch import save_file

import wkv
from tests.adapters.test_tuned_states import IDS, matrices, named
from tests.adapters.writers import (
    dense,
    pairs,
    peft_on_fla,
    peft_on_official,
    rwkv_peft,
    write_peft,
)
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.checkpoint.layouts import FLA7, foreign_tensors
from wkv.cli import main
from wkv.convert.merge import MergeOptions, merge
from wkv.inference.describe import describe

MODULES = ("att.key", "att.receptance", "att.gate", "att.output", "ffn.key", "ffn.value",
           "ffn.receptance")  # fmt: skip


def differing(path, expected):
    found = describe(path).checkpoint
    assert set(found) == set(expected)
    return [name for name in expected if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_in_float32(tmp_path, checkpoint_paths, generation):
    base = checkpoint_paths[generation]
    found = pairs(random_checkpoint(generation), MODULES)
    done = merge(base, peft_on_official(tmp_path, found), tmp_path / "merged")
    assert done.path == tmp_path / "merged.pth"
    assert (done.dtype, done.n_changed) == ("float32", len(found))
    assert done.difference == done.by_merging < 1e-4
    assert done.rounding == done.lost == 0
    model = wkv.load(done.path, "cpu fp32")
    adapted = wkv.load(base, "cpu fp32", adapter=tmp_path / "rwkv7-adapter")
    assert torch.equal(model.forward(IDS)[0], adapted.forward(IDS)[0])
    expected = dense(random_checkpoint(generation), found, 3)
    stored = describe(done.path).checkpoint
    for name, tensor in expected.items():
        assert torch.allclose(stored[name], tensor, atol=1e-6)


def test_layout_and_dtype_of_the_base_are_kept(tmp_path):
    tensors = {name: tensor.bfloat16() for name, tensor in random_checkpoint("7").items()}
    save_file(tensors, tmp_path / "base.safetensors")
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    path = peft_on_fla(tmp_path, pairs(floats))
    done = merge(tmp_path / "base.safetensors", path, tmp_path / "out")
    assert done.path.name == "out.safetensors"
    expected = {n: t.bfloat16() for n, t in dense(floats, pairs(floats), 3).items()}
    assert differing(done.path, expected) == []
    assert done.by_merging < 1e-4 < done.difference < 0.5
    assert 0 < done.rounding < 0.01
    exact = merge(
        tmp_path / "base.safetensors", path, tmp_path / "exact.pth", MergeOptions(dtype="fp32")
    )
    assert exact.difference < 1e-4


def test_small_changes_that_bf16_loses_are_counted(tmp_path, capfd):
    tensors = {name: tensor.bfloat16() for name, tensor in random_checkpoint("7").items()}
    save_pth(tensors, tmp_path / "base.pth")
    path = str(rwkv_peft(tmp_path, pairs(random_checkpoint("7"))))
    command = ["merge", str(tmp_path / "base.pth"), path, str(tmp_path / "out.pth")]
    assert main([*command, "--alpha", "0.002"]) == 0
    printed = capfd.readouterr()
    assert "18 tensors changed" in printed.out
    share = float(printed.out.split(" and ")[-1].split("%")[0])
    assert share > 90
    assert "--dtype fp32" in printed.err
    assert main([*command, "--alpha", "12"]) == 1
    assert "--overwrite" in capfd.readouterr().err
    assert main([*command, "--alpha", "12", "--overwrite"]) == 0
    assert "verified: the largest difference" in capfd.readouterr().out


@pytest.mark.parametrize("generation", ["5.2", "6", "7"])
@pytest.mark.parametrize("name", ["s.pth", "s.st", "s.safetensors"])
def test_a_tuned_state_becomes_part_of_the_model(tmp_path, checkpoint_paths, generation, name):
    base, tuned = checkpoint_paths[generation], matrices().half().float()
    model = wkv.load(base, "cpu fp32")
    if name == "s.pth":
        torch.save(named(tuned), tmp_path / name)
    elif name == "s.st":
        save_file(named(tuned.transpose(-1, -2).half().contiguous()), tmp_path / name)
    else:
        torch.save(named(tuned), tmp_path / "s.pth")
        wkv.State.load(tmp_path / "s.pth", model).save(tmp_path / name)
    done = merge(base, tmp_path / name, tmp_path / "out.pth")
    assert (done.n_changed, done.difference) == (3, 0)
    assert differing(done.path, random_checkpoint(generation) | named(tuned)) == []
    expected, _ = model.forward(IDS, wkv.State.load(tmp_path / name, model))
    assert torch.equal(wkv.load(done.path, "cpu fp32").forward(IDS)[0], expected)


def test_every_method_is_proved_beside_the_base(tmp_path, checkpoint_paths):
    torch.manual_seed(0)
    tensors = random_checkpoint("7")
    draw = {
        "blocks.0.att.key.lora_A": 0.1 * torch.randn(4, 128),
        "blocks.0.att.key.lora_B": 0.1 * torch.randn(128, 4),
        "blocks.0.att.key.lora_magnitude_vector": 0.5 + 0.2 * torch.rand(128),
        "blocks.1.att.value.miss_block": 0.02 * torch.randn(12, 128),
        "blocks.1.ffn.key.disha": 0.02 * torch.randn(8, 16, 16),
        "blocks.1.att.output.miss_block": 0.02 * torch.randn(8, 16, 16),
        "blocks.2.ln1.bias": torch.rand(128),
        "head.weight": 1.01 * tensors["head.weight"],
    }
    path = write_peft(tmp_path / "a", draw)
    done = merge(checkpoint_paths["7"], path, tmp_path / "out")
    assert done.n_changed == 6
    assert 0 <= done.by_merging < 1e-4


def test_hugging_face_directories_stay_such(tmp_path):
    tensors = random_checkpoint("7", n_embd=128, head_size=64, vocab_size=65536, n_layer=2)
    base = tmp_path / "base"
    save_pth(tensors, tmp_path / "base.pth")
    assert main(["convert", str(tmp_path / "base.pth"), str(base), "--to", "hf"]) == 0
    done = merge(base, peft_on_fla(tmp_path, pairs(tensors)), tmp_path / "merged")
    assert (tmp_path / "merged" / "config.json").is_file()
    expected = dense(tensors, pairs(tensors), 3)
    found = describe(done.path).checkpoint
    assert found.layout == "fla"
    for name in found:
        assert torch.allclose(
            found[name].float(), expected[name].reshape(found[name].shape), atol=1e-5
        )


def test_nothing_is_left_when_a_merge_fails(tmp_path, checkpoint_paths):
    base = checkpoint_paths["7"]
    out = tmp_path / "out.pth"
    wrong = tmp_path / "rwkv-0.pth"
    torch.save({"blocks.9.att.key.lora_A": torch.ones(4, 128)}, wrong)
    with pytest.raises(wkv.CheckpointError, match=r"blocks\.9\.att\.key is neither"):
        merge(base, wrong, out)
    huge = peft_on_fla(tmp_path, pairs({n: 1e6 * t for n, t in random_checkpoint("7").items()}))
    torch.save(named(matrices(layers=2)), tmp_path / "s.pth")
    with pytest.raises(wkv.StateError, match="2 layers"):
        merge(base, tmp_path / "s.pth", out)
    with pytest.raises(wkv.InputError, match="checkpoint itself"):
        merge(base, huge, base)
    seen = wkv.load(base, "cpu fp32").forward(IDS)[1]
    seen.save(tmp_path / "seen.safetensors")
    with pytest.raises(wkv.StateError, match="token shifts"):
        merge(base, tmp_path / "seen.safetensors", out)
    assert not out.exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_layouts_of_other_projects_are_bases(tmp_path):
    tensors = random_checkpoint("7")
    save_file(foreign_tensors(tensors, FLA7), tmp_path / "fla.safetensors")
    done = merge(
        tmp_path / "fla.safetensors", peft_on_fla(tmp_path, pairs(tensors)), tmp_path / "o.pth"
    )
    assert differing(done.path, dense(tensors, pairs(tensors), 3)) == []
