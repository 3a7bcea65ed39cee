"""Folders of models: written, and read again in every way."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import wkv.hf
from tests.hf.translated import random_ids, translate
from wkv.checkpoint import open_checkpoint

KEPT = ("time_decay", "time_faaaa", "time_first", "k_k", "r_k", "x_r", "bias", "ln_x.weight")
"""Endings of names that stay float32 in a 16 bit model."""


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "saved", max_shard_size="150kB")
    return tmp_path / "saved"


def test_shards_give_the_same_logits_and_keep_the_epsilon_of_the_norms(generation, model, folder):
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    read, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(read) is type(model)
    assert not any(report.values())
    ids = random_ids(2, 20)
    assert torch.equal(logits_of(read, ids), logits_of(model, ids))
    norms = [m.eps for m in read.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert all(abs(eps - 64e-5) < 1e-12 for eps in norms)
    assert bool(norms) == (generation != "4")


def test_other_auto_classes(model, folder):
    assert type(AutoConfig.from_pretrained(folder)) is type(model.config)
    ids = random_ids(1, 9)
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(ids).last_hidden_state
        expected = model.base_model(ids).last_hidden_state
    assert torch.equal(hidden, expected)


def test_bfloat16_keeps_vectors_in_float32_also_when_saved_again(model, folder, tmp_path):
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in read.named_parameters()}
    assert set(dtypes.values()) == {torch.float32, torch.bfloat16}
    for name, parameter in read.named_parameters():
        narrow = parameter.dtype == torch.bfloat16
        assert not (narrow and name.endswith(KEPT)), name
        elementwise = sum(size > 1 for size in parameter.shape) < 2 or name.endswith(KEPT)
        has_bias = name.removesuffix("weight") + "bias" in dtypes  # one dtype for each nn.Linear
        assert narrow == (not elementwise and not has_bias), name
    ids = random_ids(2, 20)
    found = logits_of(read, ids)
    assert found.dtype == torch.float32
    assert 0 < (found - logits_of(model, ids)).abs().max() <= 0.15
    read.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype="auto")
    assert {name: p.dtype for name, p in again.named_parameters()} == dtypes
    assert torch.equal(logits_of(again, ids), found)


def test_bfloat16_is_wkvs_bfloat16(generation, folder, own_models):
    read = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    own = wkv.load(own_models[generation].path, "cpu bf16", engine="torch")
    stored = open_checkpoint(own_models[generation].path)
    for name, parameter in own.network.named_parameters():
        if name.endswith((".w2", ".a2", ".v2")):  # here a bias keeps these factors in float32
            parameter.data = stored[name].reshape(parameter.shape)
    ids = random_ids(1, 20)
    expected, _ = own.forward(ids[0], all_logits=True)
    assert (logits_of(read, ids)[0] - expected).abs().max() <= 0.01


def test_a_device_map_and_weights_on_disk(model, folder, tmp_path):
    pytest.importorskip("accelerate", reason="device_map needs it")
    ids = random_ids(2, 20)
    expected = logits_of(model, ids)
    placed = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", low_cpu_mem_usage=True)
    assert torch.equal(logits_of(placed, ids), expected)
    names = [name for name, _ in model.base_model.named_children()]
    prefix, head = model.base_model_prefix, model.head_name
    places = {f"{prefix}.{name}": "cpu" for name in names} | {head: "cpu"}
    blocks = places.pop(f"{prefix}.{model.base_model.blocks_name}")
    places |= {f"{prefix}.{model.base_model.blocks_name}.{i}": blocks for i in range(3)}
    places[f"{prefix}.{model.base_model.blocks_name}.1"] = "disk"
    offloaded = AutoModelForCausalLM.from_pretrained(
        folder, device_map=places, offload_folder=tmp_path / "disk"
    )
    assert torch.equal(logits_of(offloaded, ids), expected)
    found = offloaded.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert found.shape == (2, 24)


def test_what_is_missing_is_drawn_and_what_is_there_is_kept(generation, folder):
    whole = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    ending = {"4": "time_first", "6": "time_maa_r", "7": "k_a", "7a": "k_a"}
    dropped = next(
        name
        for name in index["weight_map"]
        if name.endswith(ending.get(generation, "time_mix_key"))
    )
    shard = folder / index["weight_map"].pop(dropped)
    tensors = load_file(shard)
    del tensors[dropped]
    save_file(tensors, shard, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    read, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert report["missing_keys"] == {dropped}
    for name, tensor in read.state_dict().items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, whole[name]) == (name != dropped), name


def test_a_vocabulary_may_grow_but_for_7a(generation):
    model = translate(generation).to(torch.bfloat16)
    if generation == "7a":
        with pytest.raises(NotImplementedError, match="cannot change its size"):
            model.resize_token_embeddings(130)
        return
    before = logits_of(model, random_ids(1, 9))
    model.resize_token_embeddings(130)
    after = logits_of(model, random_ids(1, 9))
    assert after.shape[-1] == 130
    assert torch.equal(after[..., : before.shape[-1]], before)


def test_tied_embeddings(generation, model, tmp_path):
    config = type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": True})
    tied = type(model)(config).eval()
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    tied.save_pretrained(tmp_path)
    read = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = random_ids(1, 9)
    assert torch.equal(logits_of(read, ids), logits_of(tied, ids))
    own, _ = wkv.load(tmp_path, "cpu fp32").forward(ids[0], all_logits=True)
    assert (logits_of(tied, ids)[0] - own).abs().max() <= 1e-5


OTHER_NAMES = {"6": "model.layers.0.attn.x_bias", "7": "rwkv7.blocks.0.att.x_r"}


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForCausalLM])
@pytest.mark.parametrize("generation", OTHER_NAMES)
def test_weights_with_other_names_are_an_error_and_not_random(generation, auto, tmp_path):
    """Other layouts have the same model_type: fla's RWKV-6, and the official one of RWKV-7."""
    translate(generation).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    other = OTHER_NAMES[generation]
    renamed = {f"{other}{number}": tensor for number, tensor in enumerate(tensors.values())}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"has {other}0 but not .*wkv convert"):
        auto.from_pretrained(tmp_path)


def test_an_older_layout_of_fla_is_refused_too(their_models, tmp_path):
    their_models["7"].save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(3):
        parts = [tensors.pop(f"model.layers.{layer}.attn.x_{c}").flatten() for c in "rwkvag"]
        tensors[f"model.layers.{layer}.attn.x_x"] = torch.stack(parts)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has model\.layers\.0\.attn\.x_x but not"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("generation", ["4", "5.2", "6", "7", "7a"])
def test_another_activation_is_refused(generation):
    config = type(translate(generation).config)
    with pytest.raises(ValueError, match="hidden_act 'relu'; expected 'sqrelu'"):
        config(hidden_act="relu")
    config(hidden_act="relu2")  # transformers' name of the same function


def test_a_folder_of_rwkv4_is_one_of_transformers_own_class(their_models, tmp_path):
    model = their_models["4"]
    model.save_pretrained(tmp_path)
    ours = json.loads((tmp_path / "config.json").read_text())
    theirs, report = transformers.RwkvForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    assert theirs.config.rescale_every == ours["rescale_every"] == 0
    ids = random_ids(1, 30)
    with torch.no_grad():
        expected = theirs(ids, use_cache=False).logits
    assert (logits_of(model, ids) - expected).abs().max() <= 2e-5


def test_a_config_as_fla_writes_it(tmp_path):
    written = {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "attn": None,
        "attn_mode": "chunk",
        "a_low_rank_dim": 64,
        "decay_low_rank_dim": 64,
        "v_low_rank_dim": 32,
        "gate_low_rank_dim": 128,
        "fuse_norm": False,
        "head_dim": 64,
        "hidden_act": "sqrelu",
        "hidden_ratio": 4.0,
        "hidden_size": 128,
        "intermediate_size": None,
        "norm_bias": True,
        "norm_eps": 1e-05,
        "norm_first": True,
        "num_heads": None,
        "num_hidden_layers": 2,
        "torch_dtype": "float32",
        "value_dim": [128, 128],
        "vocab_size": 65536,
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, wkv.hf.RWKV7Config)
    assert (config.num_heads, config.intermediate_size) == (2, 512)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert abs(model.model.layers[1].attn.g_norm.eps - 64e-5) < 1e-12
    assert model.model.layers[1].attn.g_lora.lora[0].weight.shape == (128, 128)
    official = wkv.hf.RWKV7Config(hidden_size=768)
    ranks = ("decay", "a", "v", "gate")
    found = [getattr(official, f"{name}_low_rank_dim") for name in ranks]
    assert found == [64, 64, 32, 128]  # of the official models of this width


def test_int8(folder):
    pytest.importorskip("torchao", reason="quantizes")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig(version=2))
    )
    ids = random_ids(2, 20)
    expected = logits_of(AutoModelForCausalLM.from_pretrained(folder), ids)
    assert 0 < (logits_of(model, ids) - expected).abs().max() <= 0.3
    found = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert found.shape == (2, 24)


@pytest.mark.parametrize(("generation", "architecture"), [("6", "RWKV6"), ("7", "RWKV7")])
def test_llama_cpp_knows_the_names(their_models, generation, architecture):
    gguf = pytest.importorskip("gguf", reason="its names")
    model = their_models[generation]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture], 3)
    for name in model.state_dict():
        for ours, theirs in as_its_converter_renames(generation):
            name = name.replace(ours, theirs)
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        fused = ".attention.x_" in name  # stacked into one tensor by the converter
        assert known is not None or fused, name


def as_its_converter_renames(generation):
    if generation == "6":
        return ()
    low_rank = ((".0.weight", "1.weight"), (".2.weight", "2.weight"), (".2.bias", "0.weight"))
    return (
        ("ffn_norm", "ln2"),
        ("ffn", "feed_forward"),
        ("attn", "attention"),
        ("g_norm", "ln_x"),
        *((f"_lora.lora{ours}", theirs) for ours, theirs in low_rank),
    )
