"""`wkv convert` of adapters and tuned states: other programs read what was trained.

The readers here follow the description of each format, and share no code with those of wkv.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import wkv
from tests.adapters.test_tuned_states import ai00, fullstate, matrices, metal, named, peft
from tests.adapters.writers import (
    ALPHA,
    FLA,
    RANK,
    WITH_ALPHA,
    WITHOUT_ALPHA,
    fla_name,
    pairs,
    peft_on_fla,
    peft_on_hub,
    peft_pairs,
    rwkv_peft,
    write_peft,
)
from tests.checkpoints import random_checkpoint, save_pth
from wkv.cli import main
from wkv.convert.tuned import TunedOptions, convert_tuned


@pytest.fixture(scope="module")
def found():
    return pairs(random_checkpoint("7"))


def products(found, scale):
    return {module: scale * (B @ A) for module, (A, B) in found.items()}


def of_rwkv_peft(path, alpha):
    stored = torch.load(path)
    modules = [name.removesuffix(".lora_A") for name in stored if name.endswith(".lora_A")]
    assert len(stored) == 2 * len(modules)
    return {
        one: alpha / stored[f"{one}.lora_A"].shape[0]
        * (stored[f"{one}.lora_B"] @ stored[f"{one}.lora_A"])
        for one in modules
    }  # fmt: skip


def of_web_rwkv(path, alpha):
    stored = load_file(path)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    modules = [name.removesuffix(".lora.0") for name in stored if name.endswith(".lora.0")]
    assert len(stored) == 2 * len(modules)
    return {
        one: alpha / stored[f"{one}.lora.0"].shape[1]
        * (stored[f"{one}.lora.1"].float() @ stored[f"{one}.lora.0"].float().t())
        for one in modules
    }  # fmt: skip


def of_llama_cpp(path, alpha):
    from gguf import GGUFReader

    assert alpha is None
    reader = GGUFReader(path)
    text = {key: reader.get_field(key).contents() for key in reader.fields if "." in key}
    assert text["general.architecture"] == "rwkv7"
    assert (text["general.type"], text["adapter.type"]) == ("adapter", "lora")
    stored = {one.name: torch.tensor(one.data) for one in reader.tensors}
    found = {}
    for name in [one for one in stored if one.endswith(".weight.lora_a")]:
        A, B = stored.pop(name), stored.pop(name.replace("lora_a", "lora_b"))
        _, block, rest, *_ = name.split(".")
        part = rest.replace("time_mix_", "att.").replace("channel_mix_", "ffn.")
        found[f"blocks.{block}.{part}"] = text["adapter.lora.alpha"] / len(A) * (B @ A)
    assert not stored
    return found


def of_peft(path, alpha):
    assert alpha is None
    config = json.loads((path / "adapter_config.json").read_text())
    stored = load_file(path / "adapter_model.safetensors")
    parts = {theirs: ours for ours, theirs in FLA.items()}
    found = {}
    for name in [one for one in stored if one.endswith(".lora_A.weight")]:
        A, B = stored.pop(name), stored.pop(name.replace("lora_A", "lora_B"))
        block, part = name.removeprefix("base_model.model.model.layers.").split(".", 1)
        module = f"blocks.{block}.{parts[part.removesuffix('.lora_A.weight')]}"
        found[module] = config["lora_alpha"] / config["r"] * (B @ A)
    assert not stored
    return found


READERS = {
    "peft": of_peft, "pth-lora": of_rwkv_peft, "ai00-lora": of_web_rwkv, "gguf-lora": of_llama_cpp,
}  # fmt: skip


@pytest.mark.parametrize("writer", [*WITH_ALPHA, *WITHOUT_ALPHA], ids=lambda w: w.__name__)
@pytest.mark.parametrize("to", READERS)
def test_every_adapter_in_every_format_has_the_same_effect(tmp_path, found, writer, to):
    alpha = ALPHA if writer in WITHOUT_ALPHA else None
    done = convert_tuned(writer(tmp_path, found), tmp_path / "out", TunedOptions(to, alpha))
    assert done.n_tensors == len(found)
    assert (done.alpha is None) == (to in ("peft", "gguf-lora"))
    read = READERS[to](done.path, done.alpha)
    expected = products(found, ALPHA / RANK)
    assert read.keys() == expected.keys()
    half = 2e-3 if "web" in writer.__name__ or to == "ai00-lora" else 1e-6
    for module, product in expected.items():
        assert torch.allclose(read[module], product, atol=half * float(product.abs().max()))


def test_factors_of_several_ranks_and_scales_have_one_alpha(tmp_path, found):
    many = pairs(random_checkpoint("7"), ["ffn.key"], rank=9, seed=1)
    path = write_peft(
        tmp_path / "a", peft_pairs(found | many, fla_name), rank_pattern={"ffn.key": 9},
        use_rslora=True, alpha_pattern={"r_proj": 5},
    )  # fmt: skip
    scale = {module: (5 if "receptance" in module else ALPHA) / 2 for module in found}
    expected = {module: scale[module] * (B @ A) for module, (A, B) in found.items()}
    expected |= {module: ALPHA / 3 * (B @ A) for module, (A, B) in many.items()}
    for to in ("pth-lora", "gguf-lora"):
        done = convert_tuned(path, tmp_path / "out", TunedOptions(to))
        for module, product in READERS[to](done.path, done.alpha).items():
            assert torch.allclose(product, expected[module], atol=1e-5)


def test_other_methods_of_rwkv_peft_stay_what_they_are(tmp_path):
    stored = {
        "blocks.0.att.key.disha": torch.randn(8, 128),
        "blocks.1.ffn.key.bone": torch.randn(8, 16, 16),
        "blocks.2.ln1.weight": torch.rand(128),
    }
    torch.save(stored, tmp_path / "rwkv-0.pth")
    done = convert_tuned(tmp_path / "rwkv-0.pth", tmp_path / "o.pth", TunedOptions("pth-lora"))
    again = torch.load(done.path)
    assert again.keys() == {name.replace("bone", "disha") for name in stored}
    for name, tensor in stored.items():
        assert torch.equal(again[name.replace("bone", "disha")], tensor)


@pytest.mark.parametrize(
    ("to", "extra", "match"),
    [
        (
            "gguf-lora",
            {"blocks.0.att.w1.lora_A": (4, 24), "blocks.0.att.w1.lora_B": (128, 4)},
            "w1",
        ),
        ("gguf-lora", {"blocks.1.ln1.weight": (128,)}, r"ln1.weight \(a whole tensor\)"),
        ("ai00-lora", {"blocks.0.att.value.disha": (8, 128)}, r"att.value.weight \(MiSS\)"),
        ("peft", {"blocks.0.att.value.bone": (8, 16, 16)}, "Bat"),
    ],
)
def test_what_a_format_cannot_contain_is_named(tmp_path, to, extra, match):
    pair = {"blocks.0.att.key.lora_A": (4, 128), "blocks.0.att.key.lora_B": (128, 4)}
    path = tmp_path / "rwkv-0.pth"
    torch.save({name: torch.randn(shape) for name, shape in (pair | extra).items()}, path)
    with pytest.raises(wkv.CheckpointError, match=match):
        convert_tuned(path, tmp_path / "out", TunedOptions(to, alpha=8))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t | {"blocks.0.att.q_proj.lora_A": torch.ones(4, 8)}, "q_proj is neither"),
        (lambda t: {n: v for n, v in t.items() if "0.att.key.lora_B" not in n}, "no lora_B"),
        (lambda t: {n: v / 0 for n, v in t.items()}, "NaN"),
        (lambda t: {n: 1e6 * v for n, v in t.items()}, "half precision"),
    ],
)
def test_damaged_adapters_are_explained(tmp_path, found, change, match):
    path = rwkv_peft(tmp_path, found)
    torch.save(change(torch.load(path)), path)
    with pytest.raises(wkv.CheckpointError, match=match):
        convert_tuned(path, tmp_path / "out", TunedOptions("ai00-lora", alpha=8))


def test_the_base_model_decides_names_and_is_checked(tmp_path, checkpoint_paths):
    older = pairs(random_checkpoint("6"), ("att.key", "ffn.value"))
    source = rwkv_peft(tmp_path, older)
    options = TunedOptions("peft", ALPHA, checkpoint_paths["6"])
    done = convert_tuned(source, tmp_path / "p6", options)
    expected = peft_on_hub(tmp_path, older) / "adapter_model.safetensors"
    assert load_file(done.path / "adapter_model.safetensors").keys() == load_file(expected).keys()
    assert done.generation is None
    with pytest.raises(wkv.CheckpointError, match="tuned for the model"):
        convert_tuned(done.path, tmp_path / "x", TunedOptions("peft", base=checkpoint_paths["7"]))
    assert convert_tuned(done.path, tmp_path / "g", TunedOptions("gguf-lora")).generation is None
    path = peft_on_fla(tmp_path, pairs(random_checkpoint("7", n_embd=64, head_size=32)))
    with pytest.raises(wkv.CheckpointError, match="trained for"):
        convert_tuned(path, tmp_path / "y", TunedOptions("pth-lora", base=checkpoint_paths["7"]))


def saved(model, tuned, path):
    state = model.new_state()
    for layer, one in zip(state.layers, tuned, strict=True):
        layer.wkv.copy_(one)
    state.save(path, {"begins_with": "0", "tuned": "yes"})


SOURCES = {"rwkv-0.pth": peft, "full.pth": fullstate, "a.st": ai00, "m.safetensors": metal}


@pytest.mark.parametrize("source", [*SOURCES, "ours.safetensors"])
@pytest.mark.parametrize("to", ["pth-state", "ai00-state"])
def test_every_state_in_every_format_keeps_its_axes(models, tmp_path, source, to):
    tuned = matrices(5).bfloat16().half().float()
    if source in SOURCES:
        SOURCES[source](tmp_path / source, tuned)
    else:
        saved(models["7"], tuned, tmp_path / source)
    done = convert_tuned(tmp_path / source, tmp_path / "out", TunedOptions(to))
    assert (done.n_tensors, done.difference, done.path.stem) == (3, 0, "out")
    if to == "pth-state":  # RWKV-Runner and RWKV-PEFT: (head, value, key), exactly L tensors
        stored = torch.load(done.path)
        read = [stored[f"blocks.{layer}.att.time_state"] for layer in range(3)]
    else:  # web-rwkv: (head, key, value) in half precision
        stored = load_file(done.path)
        assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
        names = [f"blocks.{layer}.att.time_state" for layer in range(3)]
        read = [stored[name].float().transpose(1, 2) for name in names]
    assert len(stored) == 3
    assert torch.equal(torch.stack(read), tuned)
    assert not torch.allclose(torch.stack(read), tuned.transpose(-1, -2), atol=0.1)
    back = convert_tuned(done.path, tmp_path / "back", TunedOptions("pth-state"))
    assert torch.equal(torch.load(back.path)["blocks.1.att.time_state"], tuned[1])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (named(matrices())| {"blocks.4.att.time_state": torch.ones(4, 32, 32)}, "no blocks.3"),
        (named(matrices()) | {"blocks.2.att.time_state": torch.ones(4, 32, 16)}, "32, 16"),
        ({"blocks.0.att.time_state": torch.ones(4, 32, 16)}, "32, 16"),
        (named(matrices()) | {"emb": torch.ones(3)}, "emb does not belong"),
        (named(matrices() / 0), "NaN"),
    ],
)  # fmt: skip
def test_damaged_states_are_explained(tmp_path, content, match):
    torch.save(content, tmp_path / "s.pth")
    with pytest.raises(wkv.StateError, match=match):
        convert_tuned(tmp_path / "s.pth", tmp_path / "out", TunedOptions("ai00-state"))


def test_states_of_conversations_and_of_rwkv_4_are_refused(models, tmp_path, checkpoint_paths):
    models["7"].forward([1, 2])[1].save(tmp_path / "seen.safetensors")
    with pytest.raises(wkv.StateError, match="token shifts"):
        convert_tuned(tmp_path / "seen.safetensors", tmp_path / "o", TunedOptions("pth-state"))
    models["4"].new_state().save(tmp_path / "four.safetensors")
    with pytest.raises(wkv.StateError, match="generation 5 to 7"):
        convert_tuned(tmp_path / "four.safetensors", tmp_path / "o", TunedOptions("pth-state"))
    torch.save(named(matrices(layers=2)), tmp_path / "s.pth")
    options = TunedOptions("ai00-state", base=checkpoint_paths["7"])
    with pytest.raises(wkv.StateError, match="2 layers"):
        convert_tuned(tmp_path / "s.pth", tmp_path / "o", options)


def test_the_command_says_what_a_format_cannot_say(models, tmp_path, found, capfd):
    source = peft_on_fla(tmp_path, found)
    out = tmp_path / "lora.pth"
    assert main(["convert", str(source), str(out), "--to", "pth-lora"]) == 0
    printed = capfd.readouterr()
    assert "18 tensors" in printed.out
    assert "with alpha 12" in printed.err
    assert main(["convert", str(source), str(out), "--to", "pth-lora"]) == 1
    assert "--overwrite" in capfd.readouterr().err
    assert main(["convert", str(out), str(tmp_path / "p"), "--to", "peft"]) == 1
    assert "--alpha A" in capfd.readouterr().err
    assert main(["convert", str(out), str(tmp_path / "p"), "--to", "peft", "--alpha", "12"]) == 0
    assert "names are those of RWKV-7" in capfd.readouterr().err
    saved(models["7"], matrices(), tmp_path / "s.safetensors")
    state = [str(tmp_path / "s.safetensors"), str(tmp_path / "s")]
    assert main(["convert", *state, "--to", "pth-state"]) == 0
    assert "begins_with = 0" in capfd.readouterr().err
    assert main(["convert", *state, "--to", "pth-lora"]) == 1
    assert "is a tuned state" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        main(["convert", *state, "--to", "pth-state", "--dtype", "bf16"])


def test_the_state_in_a_model_is_taken_out(tmp_path):
    tuned = matrices(7)
    path = tmp_path / "merged.pth"
    save_pth(random_checkpoint("7") | named(tuned), path)
    done = convert_tuned(path, tmp_path / "s", TunedOptions("pth-state"))
    assert torch.equal(torch.load(done.path)["blocks.2.att.time_state"], tuned[2])
    save_pth(random_checkpoint("7") | named(tuned[:2]), path)
    with pytest.raises(wkv.StateError, match="one matrix for every layer"):
        convert_tuned(path, tmp_path / "t", TunedOptions("pth-state"))


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(wkv.WKVError, match=r"none\.pth: there is no such file"):
        convert_tuned(tmp_path / "none.pth", tmp_path / "o", TunedOptions("pth-lora"))
    with pytest.raises(wkv.WKVError, match=r"none\.pth: there is no such file"):
        convert_tuned(tmp_path / "none.pth", tmp_path / "o", TunedOptions("pth-state"))
    save_file({"a": torch.ones(1)}, tmp_path / "a.st")
    with pytest.raises(wkv.WKVError, match="a is neither part of a known adapter"):
        convert_tuned(tmp_path / "a.st", tmp_path / "o", TunedOptions("peft"))
