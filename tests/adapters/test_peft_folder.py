"""The folder of peft that wkv writes: read back, with the names of the export, for one base."""

import json

import pytest
import torch
from safetensors.torch import load_file

import wkv
from tests.adapters.writers import fla_name, pairs
from tests.checkpoints import GENERATIONS, random_checkpoint
from wkv.adapters.changes import Bat, LowRank, Miss, Replaced
from wkv.adapters.peft_folder import AdapterBase, write_peft_folder
from wkv.inference.describe import adapter_for, describe, identity

MODULES = ("att.key", "att.receptance", "att.gate", "att.output", "ffn.key", "ffn.value",
           "ffn.receptance")  # fmt: skip


def low_rank(generation, magnitudes=False, modules=MODULES):
    found = pairs(random_checkpoint(generation), modules)
    return {
        f"{name}.weight": LowRank(A, B, 2.5, torch.rand(len(B)) + 0.5 if magnitudes else None)
        for name, (A, B) in found.items()
    }


def miss(generation):
    found = pairs(random_checkpoint(generation), MODULES)
    return {f"{name}.weight": Miss(torch.randn(8, len(B))) for name, (_, B) in found.items()}


def written(path, folder, changes):
    description = describe(path)
    base = AdapterBase(description.config.generation, identity(description))
    write_peft_folder(folder / "adapter", changes, base)
    return adapter_for(description, folder / "adapter").changes


def check_equal(found, changes):
    assert found.keys() == changes.keys()
    for name, change in changes.items():
        for one, other in zip(found[name].tensors(), change.tensors(), strict=True):
            assert torch.equal(one.reshape(other.shape), other)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_lora_dora_and_miss_of_every_generation_are_read_back(
    tmp_path, checkpoint_paths, generation
):
    for number, changes in enumerate(
        (low_rank(generation), low_rank(generation, True), miss(generation))
    ):
        (tmp_path / str(number)).mkdir()
        found = written(checkpoint_paths[generation], tmp_path / str(number), changes)
        check_equal(found, changes)


def test_several_ranks_low_rank_maps_and_whole_norms(tmp_path, checkpoint_paths):
    changes = low_rank("7", modules=("att.key",))
    changes["blocks.1.ffn.key.weight"] = LowRank(torch.randn(7, 128), torch.randn(512, 7), 3.0)
    changes["blocks.1.att.w1"] = LowRank(torch.randn(3, 24), torch.randn(128, 3), 2.0)
    changes |= {f"blocks.1.ln1.{part}": Replaced(torch.rand(128)) for part in ("weight", "bias")}
    found = written(checkpoint_paths["7"], tmp_path, changes)
    check_equal(found, changes)


def test_names_are_those_of_the_export(tmp_path, checkpoint_paths):
    changes = low_rank("7", True, MODULES)
    written(checkpoint_paths["7"], tmp_path, changes)
    modules = {name.removesuffix(".weight") for name in changes}
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert stored.keys() == {
        f"base_model.model.{fla_name(module)}.{part}"
        for module in modules
        for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    }
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == {fla_name(module) for module in modules}
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 10)
    assert config["use_dora"] is True


def test_what_peft_cannot_store_is_refused(tmp_path, checkpoint_paths):
    matrix = "blocks.0.att.key.weight"
    bat = {matrix: Bat(torch.zeros(4, 32, 32), of_inputs=True)}
    mixed = low_rank("7", modules=("att.key",)) | {matrix: Miss(torch.zeros(8, 128))}
    loose = {"blocks.0.att.x_r": Replaced(torch.zeros(128))}
    for changes in (bat, mixed, loose, {}):
        with pytest.raises(wkv.CheckpointError, match="merge"):
            written(checkpoint_paths["7"], tmp_path, changes)
        assert list(tmp_path.iterdir()) == []


def test_the_adapter_of_another_model_is_refused(tmp_path, checkpoint_paths):
    from tests.checkpoints import save_pth

    written(checkpoint_paths["7"], tmp_path, low_rank("7"))
    save_pth(random_checkpoint("7", seed=1), tmp_path / "other.pth")
    with pytest.raises(wkv.CheckpointError, match="was tuned for the model"):
        wkv.load(tmp_path / "other.pth", adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "wkv.json").write_text("{")
    with pytest.raises(wkv.CheckpointError, match="damaged"):
        wkv.load(checkpoint_paths["7"], adapter=tmp_path / "adapter")
