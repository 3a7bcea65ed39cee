"""Hugging Face layouts in the wild, read through names written down here a second time."""

import json

import pytest
import torch
from safetensors.torch import save_file

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint
from wkv.checkpoint.layouts import FLA7, HUB, OFFICIAL_2026, foreign_tensors

IDS = [5, 250, 17, 3, 99, 99, 1, 0, 42, 7, 123, 299]
WORDS = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}


def hub_name(name):
    """transformers' RWKV-4, and the hub's own code for 5 and 6."""
    if name == "head.weight":
        return name
    name = name.replace("emb.", "embeddings.").replace("blocks.0.ln0", "blocks.0.pre_ln")
    name = name.replace(".att.", ".attention.").replace(".ffn.", ".feed_forward.")
    stem, marker, letter = name.rpartition("time_mix_")
    return "rwkv." + (f"{stem}{marker}{WORDS[letter]}" if marker else name)


def fla7(tensors, *, stacked=False):
    """fla's RWKV-7; with `stacked` as its older releases wrote it."""
    made = {}
    top = {"emb.weight": "embeddings.weight", "ln_out.weight": "norm.weight"}
    top |= {"ln_out.bias": "norm.bias"}
    norms = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att": "attn", "ffn": "ffn"}
    projections = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj"}
    projections |= {"output": "o_proj", "ln_x": "g_norm"}
    for name, tensor in tensors.items():
        if name == "head.weight":
            made["lm_head.weight"] = tensor
        elif name in top:
            made["model." + top[name]] = tensor
        elif not name.startswith("blocks.0.att.v") or name.endswith("value.weight"):
            _, block, room, *rest = name.split(".")
            prefix = f"model.layers.{block}.{norms[room]}."
            first = rest[0]
            if room == "att" and len(first) == 2 and first[1] in "012":
                part = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[first[1]]
                value = tensor.flatten() if first[1] == "0" else tensor.t().contiguous()
                made[f"{prefix}{first[0]}_lora.lora.{part}"] = value
            elif room == "att" and first in projections:
                made[prefix + ".".join([projections[first], *rest[1:]])] = tensor
            elif first in ("k_k", "k_a") or (room == "ffn" and first == "x_k"):
                made[prefix + first] = tensor.flatten()
            else:
                made[prefix + ".".join(rest)] = tensor
    if stacked:
        for block in range(3):
            parts = [made.pop(f"model.layers.{block}.attn.x_{c}") for c in "rwkvag"]
            made[f"model.layers.{block}.attn.x_x"] = torch.stack(parts)
    return made


def fla6(tensors):
    """fla's RWKV-6, whose stacked parts have the order r, w, k, v, g."""
    made = {
        "model.embeddings.weight": tensors["emb.weight"],
        "model.norm.weight": tensors["ln_out.weight"],
        "model.norm.bias": tensors["ln_out.bias"],
        "lm_head.weight": tensors["head.weight"],
    }
    for block in range(3):
        here = {
            name.split(".", 2)[2]: tensor
            for name, tensor in tensors.items()
            if name.startswith(f"blocks.{block}.")
        }
        own = {}
        for ours, theirs in (("ln0", "pre_norm"), ("ln1", "attn_norm"), ("ln2", "ffn_norm")):
            for part in ("weight", "bias"):
                if f"{ours}.{part}" in here:
                    own[f"{theirs}.{part}"] = here[f"{ours}.{part}"]
        width = len(here["ln1.weight"])
        w1 = dict(zip("wkvrg", here["att.time_maa_w1"].view(width, 5, -1).unbind(1), strict=True))
        w2 = dict(zip("wkvrg", here["att.time_maa_w2"].unbind(0), strict=True))
        own["attn.x_proj.0.mu"] = here["att.time_maa_x"].flatten()
        own["attn.x_proj.0.linear.weight"] = torch.cat([w1[c] for c in "rwkvg"], 1).t()
        own["attn.x_proj.2.weight"] = torch.cat([w2[c] for c in "rwkvg"], 0).t()
        own["attn.x_bias"] = torch.stack([here[f"att.time_maa_{c}"].flatten() for c in "rwkvg"])
        own["attn.w_proj.linear.lora.0.weight"] = here["att.time_decay_w1"].t()
        own["attn.w_proj.linear.lora.2.weight"] = here["att.time_decay_w2"].t()
        own["attn.w_proj.linear.lora.2.bias"] = here["att.time_decay"].flatten()
        for letter, word in WORDS.items():
            own[f"attn.{letter}_proj.linear.weight"] = here[f"att.{word}.weight"]
        own["attn.o_proj.weight"] = here["att.output.weight"]
        own["attn.bonus"] = here["att.time_faaaa"]
        own["attn.g_norm.weight"] = here["att.ln_x.weight"]
        own["attn.g_norm.bias"] = here["att.ln_x.bias"]
        for letter, word in (("k", "key"), ("r", "receptance")):
            own[f"ffn.{word}.mu"] = here[f"ffn.time_maa_{letter}"].flatten()
            own[f"ffn.{word}.linear.weight"] = here[f"ffn.{word}.weight"]
        own["ffn.value.weight"] = here["ffn.value.weight"]
        made |= {f"model.layers.{block}.{name}": t.contiguous() for name, t in own.items()}
    return made


def official_2026(tensors):
    return {name if name == "head.weight" else f"rwkv7.{name}": t for name, t in tensors.items()}


def hub(tensors):
    return {hub_name(name): tensor for name, tensor in tensors.items()}


WILD = {
    "transformers 4": ("4", hub, "hub"),
    "hub 5.0": ("5.0", hub, "hub"),
    "hub 5.1": ("5.1", hub, "hub"),
    "hub 5.2": ("5.2", hub, "hub"),
    "hub 6": ("6", hub, "hub"),
    "fla 6": ("6", fla6, "fla"),
    "fla 7": ("7", fla7, "fla"),
    "older fla 7": ("7", lambda tensors: fla7(tensors, stacked=True), "fla"),
    "official 7": ("7", official_2026, "official"),
    "our 7a": ("7a", fla7, "fla"),
}


@pytest.mark.parametrize("which", WILD)
@pytest.mark.parametrize("form", ["safetensors", "bin", "old bin", "shards", "shards of bin"])
def test_every_layout_in_the_wild_is_read(tmp_path, models, which, form):
    generation, rename, layout = WILD[which]
    write(tmp_path, rename(random_checkpoint(generation)), form)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 128, "vocab_size": 300}))
    model = wkv.load(tmp_path, "cpu fp32")
    assert (model.layout, model.config.generation) == (layout, generation)
    assert model.identity == models[generation].identity
    expected, _ = models[generation].forward(IDS, all_logits=True)
    assert (model.forward(IDS, all_logits=True)[0] - expected).abs().max() < 1e-5


def write(folder, tensors, form):
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if form == "safetensors":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    if form in ("bin", "old bin"):
        legacy = {"_use_new_zipfile_serialization": form == "bin"}
        torch.save(tensors, folder / "pytorch_model.bin", **legacy)
        return
    ending = "safetensors" if form == "shards" else "bin"
    stem = "model" if form == "shards" else "pytorch_model"
    weight_map = {}
    for number in range(2):
        file = f"{stem}-0000{number + 1}-of-00002.{ending}"
        part = {name: t for i, (name, t) in enumerate(tensors.items()) if i % 2 == number}
        weight_map |= dict.fromkeys(part, file)
        if form == "shards":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_tables_say_the_same_as_the_names_here(generation):
    tensors = random_checkpoint(generation)
    if generation.startswith("7"):
        pairs = [(FLA7, fla7(tensors)), (OFFICIAL_2026, official_2026(tensors))]
    else:
        pairs = [(HUB, hub(tensors))]
    for rules, expected in pairs:
        made = foreign_tensors(tensors, rules)
        unused = set(made) - set(expected)
        assert all(".layers.0.attn.v_lora." in name for name in unused)
        for name, tensor in expected.items():
            assert torch.equal(made[name], tensor), name


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ('{"hidden_size": 256}', r"config\.json says hidden_size = 256 and the tensors have 128"),
        ('{"num_hidden_layers": 4}', "num_hidden_layers = 4 and the tensors have 3"),
        ('{"vocab_size": "many"}', "vocab_size = 'many'"),
        ("{", r"config\.json cannot be read"),
        ("[]", "is not a JSON object"),
        ('{"norm_eps": 1e-6}', "norm_eps = 1e-06, expected 1e-5"),
        ('{"group_norm_eps": "big"}', "group_norm_eps = 'big', expected a number"),
        ('{"hidden_act": "relu"}', "hidden_act = 'relu', expected 'sqrelu'"),
        ('{"norm_first": false}', "norm_first = False, expected True"),
        ('{"norm_bias": false}', "norm_bias = False, expected True"),
        ('{"attn": {"layers": [1]}}', "attn = .*expected None"),
        ('{"head_dim": 64}', "head_dim = 64 and the tensors have 32"),
        ('{"intermediate_size": 96}', "intermediate_size = 96 and the tensors have 512"),
    ],
)
def test_a_config_that_disagrees_is_told(tmp_path, config, match):
    write(tmp_path, fla7(random_checkpoint("7")), "safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(wkv.CheckpointError, match=match):
        wkv.load(tmp_path)


@pytest.mark.parametrize("which", WILD)
def test_a_tied_head_is_the_embedding(tmp_path, which):
    generation, rename, _ = WILD[which]
    tensors = random_checkpoint(generation)
    tensors["head.weight"] = tensors["emb.weight"].clone()
    folders = {}
    for tied in (True, False):
        folder = folders[tied] = tmp_path / str(tied)
        folder.mkdir()
        named = rename(tensors)
        if tied:
            del named["head.weight" if "head.weight" in named else "lm_head.weight"]
        write(folder, named, "safetensors")
        (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    expected, _ = wkv.load(folders[False], "cpu fp32").forward(IDS)
    assert torch.equal(wkv.load(folders[True], "cpu fp32").forward(IDS)[0], expected)
    (folders[True] / "config.json").write_text("{}")
    with pytest.raises(wkv.CheckpointError, match="head"):
        wkv.load(folders[True])


def test_damaged_directories_are_told(tmp_path):
    write(tmp_path, fla7(random_checkpoint("7")), "shards")
    shard = tmp_path / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(wkv.CheckpointError, match=r"00002-of-00002.*truncated or damaged"):
        wkv.load(tmp_path)
    shard.unlink()
    with pytest.raises(
        wkv.CheckpointError, match=r"the shard model-00002-of-00002\.safetensors is missing"
    ):
        wkv.load(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"emb.weight": "../secret.safetensors"}}))
    with pytest.raises(wkv.CheckpointError, match="outside its folder"):
        wkv.load(tmp_path)
    index.write_text(json.dumps({"weight_map": {"emb.weight": "config.json"}}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(wkv.CheckpointError, match=r"neither a \.safetensors nor a \.bin"):
        wkv.load(tmp_path)


@pytest.mark.parametrize(
    ("which", "config", "eps"),
    [
        ("fla 7", {"norm_eps": 1e-5}, 32e-5),  # heads of 32
        ("fla 7", {"norm_eps": 1e-5, "group_norm_eps": 64e-5}, 64e-5),
        ("fla 7", {}, 64e-5),
        ("our 7a", {"norm_eps": 1e-5}, 32e-5),
        ("fla 6", {"norm_eps": 1e-5}, 1e-5),  # fla's class does not multiply it
        ("fla 6", {"norm_eps": 1e-5, "group_norm_eps": 64e-5}, 64e-5),
        ("hub 6", {"head_size_divisor": 4}, 16e-5),
        ("hub 6", {"layer_norm_epsilon": 1e-5, "head_size_divisor": 8}, 64e-5),
        ("hub 5.2", {"layer_norm_epsilon": 1e-5, "head_size_divisor": 4}, 16e-5),
    ],
)
def test_the_eps_of_the_norm_per_head_is_that_of_the_directory(tmp_path, which, config, eps):
    generation, rename, _ = WILD[which]
    write(tmp_path, rename(random_checkpoint(generation)), "safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert wkv.load(tmp_path).config.group_norm_eps == pytest.approx(eps)
