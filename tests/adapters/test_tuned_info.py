"""`wkv info` shows adapters and states, and which model they fit."""

import json

import pytest
import torch

from tests.adapters.test_tuned_states import matrices, named
from tests.adapters.writers import llama_cpp, pairs, peft_on_fla, rwkv_peft
from tests.checkpoints import random_checkpoint
from wkv.cli import main
from wkv.cli.tuned_info import tuned_files


def info(capfd, *arguments):
    assert main(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("writer", [peft_on_fla, rwkv_peft, llama_cpp])
def test_an_adapter_alone_and_beside_models(tmp_path, checkpoint_paths, capfd, writer):
    path = writer(tmp_path, pairs(random_checkpoint("7")))
    facts = info(capfd, path)
    assert facts["kind"] == "adapter"
    assert facts["changes"].startswith("18 tensors by LoRA of rank 4 (scale ")
    alpha = ["--alpha", "8"] if writer is rwkv_peft else []
    found = info(capfd, checkpoint_paths["7"], "--adapter", path, *alpha)
    assert [one["fits"] for one in found["tuned"]] == ["yes"]
    found = info(capfd, checkpoint_paths["4"], "--adapter", path, *alpha)
    knows = writer is not rwkv_peft  # whose names are the same in all generations
    assert ("is for RWKV-" in found["tuned"][0]["fits"]) == knows


def test_states_alone_and_beside_models(tmp_path, models, checkpoint_paths, capfd):
    torch.save(named(matrices()), tmp_path / "s.pth")
    state = models["7"].new_state()
    state.save(tmp_path / "ours.safetensors", {"tuned": "yes", "begins_with": "0"})
    facts = info(capfd, tmp_path / "s.pth")
    assert (facts["kind"], facts["heads"], facts["layers"]) == ("tuned state", "4 of 32", "3")
    facts = info(capfd, tmp_path / "ours.safetensors")
    assert (facts["kind"], facts["begins_with"]) == ("tuned state", "0")
    both = ["--state", tmp_path / "s.pth", "--state", tmp_path / "ours.safetensors"]
    found = info(capfd, checkpoint_paths["7"], *both)["tuned"]
    assert [one["fits"] for one in found] == ["yes", "yes"]
    found = info(capfd, checkpoint_paths["6"], *both)["tuned"]
    assert found[0]["fits"] == "yes"  # the sizes are the same, and the file says no more
    assert found[1]["fits"].startswith("no: it belongs to the model")
    found = info(capfd, checkpoint_paths["4"], *both)["tuned"]
    assert "RWKV-4 has no heads" in found[0]["fits"]
    assert main(["info", str(checkpoint_paths["7"]), "--state", str(tmp_path / "s.pth")]) == 0
    assert "fits        yes" in capfd.readouterr().out


def test_doctor_lists_what_the_folder_has(tmp_path, demo, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tuned_files() == []
    demo.new_state().save(tmp_path / "mine.safetensors", {"tuned": "yes"})
    torch.save(named(matrices()), tmp_path / "not-looked-at.pth")
    (tmp_path / "out").mkdir()
    peft_on_fla(tmp_path / "out", pairs(random_checkpoint("7")))
    [finding] = tuned_files()
    assert "mine.safetensors (state, for the built-in model)" in finding.found
    assert "peft (adapter, for a model that it does not name)" in finding.found
