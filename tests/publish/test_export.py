"""Hugging Face directories: complete, exact, verified, and never half written."""

import json
import os
import subprocess
import sys

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.checkpoint import open_checkpoint
from wkv.convert.checkpoint_file import convert
from wkv.convert.huggingface.export import ExportOptions, export

IDS = [5, 250, 17, 3, 99, 99, 1, 0, 42, 7, 123, 299]
CLASSES = {"4": "Rwkv", "6": "Rwkv6", "7": "RWKV7", "7a": "RWKV7a"}


@pytest.fixture(scope="module")
def exported(checkpoint_paths, tmp_path_factory):
    """Give the directory of each generation, and what `export` said of it."""
    folder = tmp_path_factory.mktemp("exported")
    return {
        generation: export(path, folder / f"rwkv{generation}")
        for generation, path in checkpoint_paths.items()
    }


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_export_is_verified_and_complete(exported, generation):
    done = exported[generation]
    assert done.verification.by_wkv == 0
    assert done.verification.by_transformers < 1e-4
    files = {file.name for file in done.path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= files
    config = json.loads((done.path / "config.json").read_text())
    stem = CLASSES.get(generation, "Rwkv5")
    assert config["architectures"] == [f"{stem}ForCausalLM"]
    module = config["auto_map"]["AutoModelForCausalLM"].split(".")[0]
    assert f"{module}.py" in files
    assert config["dtype"] == "float32"
    assert config["eos_token_id"] == 0
    card = (done.path / "README.md").read_text()
    assert card.startswith("---\nlicense: unknown\nlibrary_name: transformers\n")
    assert "SHA256" in card


@pytest.mark.parametrize("generation", GENERATIONS)
def test_there_and_back_is_bit_equal(checkpoint_paths, exported, generation, tmp_path):
    source = torch.load(checkpoint_paths[generation])
    back = torch.load(convert(exported[generation].path, tmp_path / "back").path)
    assert set(source) - set(back) == set(exported[generation].dropped)
    assert all(name.startswith("blocks.0.att.v") for name in exported[generation].dropped)
    for name, tensor in back.items():
        assert tensor.dtype == source[name].dtype
        assert tensor.shape == source[name].shape
        assert torch.equal(tensor, source[name]), name


# Runs where wkv cannot be imported: what others have who only fetched the directory.
ALONE = """
import json, sys
sys.modules["wkv"] = None
import torch
from transformers import AutoModelForCausalLM
worst = {}
for folder, ids in json.load(open(sys.argv[1])).items():
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    rows = [ids, ids[:5], ids[:1], ids[3:]]
    width = max(map(len, rows))
    batch = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        drawn = model.generate(batch, attention_mask=mask, max_new_tokens=50, do_sample=False,
                               eos_token_id=None, return_dict_in_generate=True, output_logits=True)
        alone = model(torch.tensor([ids])).logits[0]
    torch.save({"alone": alone, "drawn": drawn.sequences[:, width:],
                "logits": torch.stack(drawn.logits, 1)}, folder + "/answer.pt")
"""


def test_directories_work_where_there_is_no_wkv(exported, models, tmp_path):
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps({str(done.path): IDS for done in exported.values()}))
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, str(asked)],
        check=True, env=environment, cwd=tmp_path, timeout=250, capture_output=True,
    )  # fmt: skip
    for generation, done in exported.items():
        answer = torch.load(done.path / "answer.pt")
        (done.path / "answer.pt").unlink()
        model = models[generation]
        expected, _ = model.forward(IDS, all_logits=True)
        assert (answer["alone"] - expected).abs().max() <= 1e-4
        for row, ids in enumerate([IDS, IDS[:5], IDS[:1], IDS[3:]]):
            drawn = answer["drawn"][row].tolist()
            along, _ = model.forward(ids + drawn, all_logits=True)
            difference = answer["logits"][row] - along[len(ids) - 1 : -1]
            assert difference.abs().max() <= 1e-4, (generation, row)


def test_dtype_shards_layout_and_licence_can_be_chosen(checkpoint_paths, tmp_path):
    options = ExportOptions(
        dtype="bf16", shard_size="500KB", license="apache-2.0", layout="official", context=8192
    )
    done = export(checkpoint_paths["7"], tmp_path / "official", options)
    assert done.verification.by_transformers is None
    assert len(list(done.path.glob("model-*-of-*.safetensors"))) > 1
    config = json.loads((done.path / "config.json").read_text())
    assert (config["dtype"], config["max_position_embeddings"]) == ("bfloat16", 8192)
    assert config["architectures"] == ["Rwkv7ForCausalLM"]
    assert "license: apache-2.0" in (done.path / "README.md").read_text()
    model = wkv.load(done.path, "cpu fp32")
    assert model.layout == "official"
    expected, _ = wkv.load(checkpoint_paths["7"], "cpu bf16").forward(IDS)
    assert (wkv.load(done.path, "cpu bf16").forward(IDS)[0] - expected).abs().max() == 0
    sharded = export(checkpoint_paths["6"], tmp_path / "six", ExportOptions(shard_size="500KB"))
    assert sharded.verification.by_transformers < 1e-4


def test_the_built_in_model_comes_with_its_words(demo, tmp_path):
    done = export(demo.path, tmp_path / "demo")
    assert done.tokenizer == "demo-rwkv7.vocab.txt"
    model = wkv.load(done.path)
    text = "The Duchess said: 27 + 48 = 75.\n\nWell!"
    assert model.tokenizer.encode(text) == demo.tokenizer.encode(text)


def test_gguf_has_a_name_for_every_tensor(exported):
    gguf = pytest.importorskip("gguf")
    six = gguf.get_tensor_name_map(gguf.MODEL_ARCH.RWKV6, 3)
    seven = gguf.get_tensor_name_map(gguf.MODEL_ARCH.RWKV7, 3)
    for name in open_checkpoint(exported["6"].path):
        assert six.get_name(name, try_suffixes=(".weight", ".bias")), name
    for name in open_checkpoint(exported["7"].path):
        for old, new in LLAMA_CPP:
            name = name.replace(old, new)
        fused = ".attention.x_" in name  # its converter stacks these under a name of their own
        assert fused or seven.get_name(name, try_suffixes=(".weight", ".bias")), name


# What llama.cpp's converter renames before it asks the map. Source: convert_hf_to_gguf.py.
LLAMA_CPP = (
    ("ffn", "feed_forward"),
    ("attn", "attention"),
    ("feed_forward_norm", "ln2"),
    ("g_norm", "ln_x"),
    ("_lora.lora.0.weight", "1.weight"),
    ("_lora.lora.2.weight", "2.weight"),
    ("_lora.lora.2.bias", "0.weight"),
)


def test_bad_destinations_and_sources_leave_nothing(checkpoint_paths, tmp_path, monkeypatch):
    source = checkpoint_paths["4"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "file").touch()
    for name, match in (
        ("full", "is not empty"),
        ("file", "this is a file"),
        ("../x", r"`\.\.` in it"),
        ("no/where", "there is no folder"),
    ):
        with pytest.raises(wkv.InputError, match=match):
            export(source, tmp_path / name)
    for options, match in (
        (ExportOptions(layout="fla"), "RWKV-4 has no layout 'fla'; expected hub"),
        (ExportOptions(dtype="int8"), "dtype is 'int8'"),
        (ExportOptions(shard_size="many"), "shard size 'many'"),
    ):
        with pytest.raises(wkv.InputError, match=match):
            export(source, tmp_path / "x", options)
    made = convert(source, tmp_path / "int8", strategy="cpu fp32i8").path
    with pytest.raises(wkv.CheckpointError, match="made for the strategy cpu fp32i8"):
        export(made, tmp_path / "x")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.save_torch_state_dict", full)
    with pytest.raises(wkv.CheckpointError, match=r"could not be written.*No space left"):
        export(source, tmp_path / "x")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "full", "int8.pth"]


def test_a_directory_that_differs_is_not_saved(checkpoint_paths, tmp_path, monkeypatch):
    from wkv.convert.huggingface import export as module

    right = module.foreign_tensors

    def wrong(tensors, rules):
        made = right(tensors, rules)
        return made | {"lm_head.weight": made["lm_head.weight"] * 1.5}

    monkeypatch.setattr(module, "foreign_tensors", wrong)
    with pytest.raises(wkv.CheckpointError, match=r"1 tensors differ.*head\.weight"):
        export(checkpoint_paths["7"], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line(checkpoint_paths, tmp_path, capsys):
    from wkv.cli import main

    folder = tmp_path / "six"
    arguments = ["convert", str(checkpoint_paths["6"]), str(folder), "--to", "hf"]
    assert main([*arguments, "--licence", "mit"]) == 0
    out, err = capsys.readouterr()
    assert f"{folder}: the hub layout, tokenizer none" in out
    assert "the largest difference of logits is 0" in out
    assert "verified with transformers in float32" in out
    assert "no tokenizer was written: no tokenizer is known for a vocabulary of 300 ids" in err
    assert main(["convert", str(folder), str(tmp_path / "back.pth"), "--to", "pth"]) == 0
    with pytest.raises(SystemExit) as wrong:
        main([*arguments, "--strategy", "cpu bf16"])
    assert wrong.value.code == 2
    assert "--strategy does not go with --to hf" in capsys.readouterr().err


def test_pile_and_raven_models_get_the_20b_tokenizer(shared_data, tmp_path):
    path = tmp_path / "RWKV-4-Raven-tiny-ctx4096.pth"
    save_pth(random_checkpoint("4", n_layer=1, n_embd=32, vocab_size=50277), path)
    file = shared_data / "20B_tokenizer.json"
    done = export(path, tmp_path / "raven", ExportOptions(tokenizer=file))
    assert "Bob" in (done.path / "chat_template.jinja").read_text()
    assert wkv.load(done.path).tokenizer.encode("Hello\n\n") == [12092, 535]
    assert json.loads((done.path / "config.json").read_text())["context_length"] == 4096


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("generation", ["5.0", "7"])
def test_a_dtype_can_be_chosen_in_the_usual_layout(checkpoint_paths, tmp_path, generation, dtype):
    done = export(checkpoint_paths[generation], tmp_path / "x", ExportOptions(dtype=dtype))
    assert done.verification.by_transformers < 1e-4
    big = torch.load(checkpoint_paths[generation])
    big["head.weight"] = big["head.weight"] * 1e6
    save_pth(big, tmp_path / "big.pth")
    if dtype == "fp16":
        with pytest.raises(wkv.InputError, match=r"head\.weight has values that do not fit"):
            export(tmp_path / "big.pth", tmp_path / "y", ExportOptions(dtype=dtype))


def test_a_directory_keeps_its_facts_when_it_is_exported_again(demo, tmp_path):
    first = export(demo.path, tmp_path / "first", ExportOptions(license="mit", context=999))
    second = export(first.path, tmp_path / "second")
    card = (second.path / "README.md").read_text()
    assert "license: mit" in card
    assert "# first" in card
    assert "trained with a context of 999 tokens" in card
    back = convert(second.path, tmp_path / "back")
    text = "Alice was 12"
    assert wkv.load(back.path).tokenizer.encode(text) == demo.tokenizer.encode(text)


def test_a_link_is_no_place_to_write(checkpoint_paths, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(wkv.InputError, match="a link to somewhere else"):
        export(checkpoint_paths["4"], tmp_path / "link")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_without_meaning_are_named(checkpoint_paths, tmp_path, value):
    broken = torch.load(checkpoint_paths["7"])
    broken["blocks.1.att.key.weight"][3, 4] = value
    save_pth(broken, tmp_path / "broken.pth")
    expected = r"blocks\.1\.att\.key\.weight: 1 of 16384 values are NaN.*earlier checkpoint"
    with pytest.raises(wkv.CheckpointError, match=expected):
        export(tmp_path / "broken.pth", tmp_path / "x")
    assert [file.name for file in tmp_path.iterdir()] == ["broken.pth"]


def test_another_eps_of_the_norm_per_head_is_kept(checkpoint_paths, tmp_path):
    first = export(checkpoint_paths["6"], tmp_path / "first").path
    config = json.loads((first / "config.json").read_text())
    assert config["head_size_divisor"] == 8
    (first / "config.json").write_text(json.dumps(config | {"head_size_divisor": 3}))
    second = export(first, tmp_path / "second")
    assert second.verification.by_transformers < 1e-4
    assert wkv.load(second.path).config.group_norm_eps == pytest.approx(9e-5)
