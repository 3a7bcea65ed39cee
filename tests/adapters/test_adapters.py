"""Adapters of every program mean the dense weights that their formulas state."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import wkv
from tests.adapters.writers import (
    ALPHA,
    RANK,
    WITH_ALPHA,
    WITHOUT_ALPHA,
    dense,
    fla_name,
    llama_cpp,
    pairs,
    peft_on_fla,
    peft_on_hub,
    peft_on_official,
    peft_pairs,
    rwkv_peft,
    write_peft,
)
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.cli import main

IDS = [5, 250, 17, 3, 99]
MAPS = ("w_lora.lora.0", "w_lora.lora.2", "g_lora.lora.2")


@pytest.fixture(scope="module")
def tensors():
    return random_checkpoint("7")


@pytest.fixture(scope="module")
def base(checkpoint_paths):
    return checkpoint_paths["7"]


def check(base, expected, path, alpha=None, tolerance=1e-6):
    """Compare each tensor of the adapted model with the dense weights, and both engines."""
    model = wkv.load(base, "cpu fp32", engine="torch", adapter=path, alpha=alpha)
    found = model.network.state_dict()
    for name, tensor in expected.items():
        if name in found:  # layer 0 does not use v0, v1 and v2
            assert torch.allclose(found[name], tensor.reshape(found[name].shape), atol=tolerance), (
                name
            )
    other = wkv.load(base, "cpu fp32", adapter=path, alpha=alpha)
    assert torch.allclose(other.forward(IDS)[0], model.forward(IDS)[0], atol=1e-4)
    plain = wkv.load(base, "cpu fp32")
    assert not torch.allclose(other.forward(IDS)[0], plain.forward(IDS)[0], atol=1e-2)
    assert other.identity == model.identity != plain.identity


@pytest.mark.parametrize("writer", WITH_ALPHA, ids=lambda writer: writer.__name__)
def test_formats_that_contain_the_scale(tmp_path, base, tensors, writer):
    found = pairs(tensors)
    path = writer(tmp_path, found)
    check(base, dense(tensors, found, ALPHA / RANK), path)
    with pytest.raises(wkv.CheckpointError, match="leave out --alpha"):
        wkv.load(base, adapter=path, alpha=99)


@pytest.mark.parametrize("writer", WITHOUT_ALPHA, ids=lambda writer: writer.__name__)
def test_formats_without_alpha_need_it(tmp_path, base, tensors, writer):
    found = pairs(tensors)
    path = writer(tmp_path, found)
    check(base, dense(tensors, found, ALPHA / RANK), path, ALPHA, tolerance=1e-3)
    with pytest.raises(wkv.CheckpointError, match=r"does not contain alpha.*--alpha"):
        wkv.load(base, adapter=path)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("writer", [peft_on_official, peft_on_hub])
def test_adapters_of_every_generation(tmp_path, checkpoint_paths, generation, writer):
    tensors = random_checkpoint(generation)
    modules = ("att.key", "att.receptance", "att.gate", "ffn.key", "ffn.value", "ffn.receptance")
    found = pairs(tensors, modules)
    check(
        checkpoint_paths[generation], dense(tensors, found, ALPHA / RANK), writer(tmp_path, found)
    )


def test_rank_stabilized_lora_and_patterns(tmp_path, base, tensors):
    few, many = pairs(tensors, ["ffn.key"]), pairs(tensors, ["att.key"], 9, 1)
    path = write_peft(
        tmp_path / "a", peft_pairs(few | many, fla_name), use_rslora=True,
        rank_pattern={"k_proj": 9}, alpha_pattern={"attn.k_proj": 6},
    )  # fmt: skip
    check(base, dense(dense(tensors, few, ALPHA / 2), many, 2), path)


def test_dora_rescales_the_rows(tmp_path, base, tensors):
    found = pairs(tensors)
    expected, named = dense(tensors, found, 3), peft_pairs(found, fla_name)
    for module in found:
        norms = 0.5 + torch.rand(expected[f"{module}.weight"].shape[0])
        named[f"base_model.model.{fla_name(module)}.lora_magnitude_vector"] = norms
        rows = expected[f"{module}.weight"]
        expected[f"{module}.weight"] = rows / rows.norm(dim=1, keepdim=True) * norms[:, None]
    check(base, expected, write_peft(tmp_path / "a", named, use_dora=True))


def test_whole_modules_and_low_rank_maps_of_peft(tmp_path, base, tensors):
    found = pairs(tensors)
    expected, named = dense(tensors, found, 3), peft_pairs(found, fla_name)
    norm = "base_model.model.model.layers.1.attn_norm"
    named |= {f"{norm}.weight": torch.rand(128), f"{norm}.bias": torch.rand(128)}
    expected |= {f"blocks.1.ln1.{part}": named[f"{norm}.{part}"] for part in ("weight", "bias")}
    for part in MAPS:
        name = f"blocks.1.att.{part[0]}{'1' if part.endswith('0') else '2'}"
        inputs, outputs = expected[name].shape
        A, B = torch.randn(RANK, inputs), torch.randn(outputs, RANK)
        module = f"base_model.model.model.layers.1.attn.{part}"
        named |= {f"{module}.lora_A.weight": A, f"{module}.lora_B.weight": B}
        expected[name] = expected[name] + 3 * (B @ A).t()
    check(base, expected, write_peft(tmp_path / "a", named), tolerance=1e-4)


def test_embeddings_of_peft(tmp_path, base, tensors):
    A, B = torch.randn(RANK, 300), torch.randn(128, RANK)
    module = "base_model.model.model.embeddings"
    named = {f"{module}.lora_embedding_A": A, f"{module}.lora_embedding_B": B}
    expected = tensors | {"emb.weight": tensors["emb.weight"] + 3 * (B @ A).t()}
    check(base, expected, write_peft(tmp_path / "a", named), tolerance=1e-5)


def test_trained_norms_beside_the_pairs_of_rwkv_peft(tmp_path, base, tensors):
    found = pairs(tensors)
    path = rwkv_peft(tmp_path, found)
    norms = {f"blocks.{block}.ln2.bias": torch.rand(128).bfloat16() for block in range(3)}
    torch.save(torch.load(path) | norms, path)
    check(base, dense(tensors, found, 3) | {n: t.float() for n, t in norms.items()}, path, ALPHA)


def miss(W, D):
    return torch.stack([W[:, i] + D[i % len(D)] for i in range(W.shape[1])], 1)


def bat(W, D, of_inputs):
    W, r = W.clone(), D.shape[1]
    for i in range(0, W.shape[0], r):
        for j in range(0, W.shape[1], r):
            block, one = W[i : i + r, j : j + r].clone(), D[(j if of_inputs else i) // r]
            W[i : i + r, j : j + r] = block @ (torch.eye(r) + one) + one
    return W


@pytest.mark.parametrize("key", ["disha", "bone"])
@pytest.mark.parametrize("rank", [12, 16])  # 12 does not divide the inputs
def test_miss_of_rwkv_peft(tmp_path, base, tensors, key, rank):
    D = {
        f"blocks.{l}.{m}": 0.1 * torch.randn(rank, 128)
        for l in range(3)
        for m in ("att.key", "ffn.value")
    }
    torch.save({f"{name}.{key}": one for name, one in D.items()}, tmp_path / "rwkv-1.pth")
    changed = {f"{name}.weight": miss(tensors[f"{name}.weight"], one) for name, one in D.items()}
    check(base, tensors | changed, tmp_path / "rwkv-1.pth")


def test_bat_of_rwkv_peft_has_a_matrix_for_each_block_of_inputs(tmp_path, base, tensors):
    D = {"blocks.1.att.key": torch.randn(8, 16, 16), "blocks.1.ffn.value": torch.randn(32, 16, 16)}
    torch.save({f"{name}.bone": 0.1 * one for name, one in D.items()}, tmp_path / "rwkv-1.pth")
    changed = {f"{n}.weight": bat(tensors[f"{n}.weight"], 0.1 * one, True) for n, one in D.items()}
    check(base, tensors | changed, tmp_path / "rwkv-1.pth", tolerance=1e-5)


@pytest.mark.parametrize("mode", ["miss", "mini", "bat"])
def test_miss_of_peft(tmp_path, base, tensors, mode):
    W = tensors["blocks.2.ffn.key.weight"]
    shape = {"miss": (12, 512), "mini": (16, 64), "bat": (32, 16, 16)}[mode]
    D = 0.1 * torch.randn(shape)
    named = {"base_model.model.model.layers.2.ffn.key.miss_block": D}
    path = write_peft(tmp_path / "a", named, peft_type="MISS", r=shape[1], init_weights=mode)
    full = D.repeat(1, 8) if mode == "mini" else D
    expected = bat(W, D, False) if mode == "bat" else miss(W, full)
    check(base, tensors | {"blocks.2.ffn.key.weight": expected}, path, tolerance=1e-5)


def test_alpha_0_of_llama_cpp_means_no_scale(tmp_path, base, tensors):
    found = pairs(tensors)
    check(base, dense(tensors, found, 1.0), llama_cpp(tmp_path, found, alpha=0.0))


@pytest.mark.parametrize("strategy", ["cpu bf16", "cpu int8", "cpu int4"])
def test_an_adapter_is_merged_before_the_weights_are_packed(tmp_path, base, tensors, strategy):
    found = pairs(tensors)
    save_pth(dense(tensors, found, 3), tmp_path / "merged.pth")
    path = peft_on_fla(tmp_path, found)
    adapted = wkv.load(base, strategy, adapter=path).forward(IDS)[0]
    assert torch.equal(adapted, wkv.load(tmp_path / "merged.pth", strategy).forward(IDS)[0])


def test_a_packed_base_takes_an_adapter(tmp_path, base, tensors):
    from wkv.convert.quantize import quantize

    packed = tmp_path / "packed.safetensors"
    quantize(base, packed, to="int8")
    path = peft_on_fla(tmp_path, pairs(tensors, ["att.key"]))
    plain = wkv.load(packed)
    model, other = wkv.load(packed, adapter=path), wkv.load(packed, engine="torch", adapter=path)
    assert str(model.strategy) == str(plain.strategy)
    for name, tensor in plain.network.state_dict().items():  # all other matrices keep their bits
        same = torch.equal(
            torch.as_tensor(tensor), torch.as_tensor(model.network.state_dict()[name])
        )
        assert same == (not name.endswith("att.key.weight"))
    assert torch.allclose(model.forward(IDS)[0], other.forward(IDS)[0], atol=0.1)
    exact = wkv.load(base, "cpu fp32", adapter=path)
    assert torch.allclose(model.forward(IDS)[0], exact.forward(IDS)[0], atol=0.3)
    assert not torch.allclose(model.forward(IDS)[0], plain.forward(IDS)[0], atol=0.3)


def test_states_of_the_base_are_not_states_of_the_adapted_model(tmp_path, base, tensors):
    adapted = wkv.load(base, "cpu fp32", adapter=peft_on_fla(tmp_path, pairs(tensors)))
    state = wkv.load(base, "cpu fp32").forward(IDS)[1]
    with pytest.raises(wkv.StateError, match="another model"):
        adapted.forward(IDS, state)


def edited(path, change):
    file = path / "adapter_model.safetensors"
    changed = change(load_file(file))
    save_file({name: tensor.clone() for name, tensor in changed.items()}, file)


A0 = "base_model.model.model.layers.0.attn.r_proj.lora_A.weight"
B0 = A0.replace("lora_A", "lora_B")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: {n: v for n, v in t.items() if n != B0}, "r_proj has no lora_B"),
        (lambda t: {n: v for n, v in t.items() if n != A0}, "r_proj has no lora_A"),
        (lambda t: t | {"base_model.model.extra.weight": t[A0]}, "extra.weight is neither"),
        (lambda t: t | {A0.replace("r_proj", "q_proj"): t[A0]}, "q_proj is neither"),
        (lambda t: t | {A0.replace("layers.0", "layers.9"): t[A0]}, "layers.9.attn.r_proj is"),
        (lambda t: t | {B0.replace("weight", "bias"): torch.ones(128)}, "lora_B.bias is neither"),
        (lambda t: t | {A0: t[A0][:3]}, "ranks 3 and 4"),
        (lambda t: t | {A0: t[A0][:3], B0: t[B0][:, :3].contiguous()}, "rank 3.*says 4"),
        (lambda t: t | {A0: t[A0][:, :64].contiguous()}, r"\(128, 64\).*\(128, 128\)"),
        (lambda t: t | {A0: t[A0] / 0}, "lora_A.weight is .* NaN"),
        (lambda t: t | {A0.replace("model.model.", "model.", 1): t[A0]}, "neither|second"),
        (lambda t: {"a.weight": torch.ones(2)}, "a.weight is neither"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, base, tensors, change, match):
    path = peft_on_fla(tmp_path, pairs(tensors))
    edited(path, change)
    with pytest.raises(wkv.CheckpointError, match=match):
        wkv.load(base, adapter=path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"peft_type": "IA3"}, "of the type IA3"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16, which changes the base"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"r": "many"}, "not a configuration"),
        ({"r": 8}, "rank 4.*says 8"),
    ],
)
def test_configurations_that_cannot_be_applied(tmp_path, base, tensors, change, match):
    path = peft_on_fla(tmp_path, pairs(tensors))
    config = path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(wkv.CheckpointError, match=match):
        wkv.load(base, adapter=path)


def test_files_that_are_no_adapters(tmp_path, base, tensors, checkpoint_paths):
    with pytest.raises(wkv.CheckpointError, match="this is a model"):
        wkv.load(base, adapter=base)
    with pytest.raises(wkv.CheckpointError, match="there is no such file"):
        wkv.load(base, adapter=tmp_path / "none.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(wkv.CheckpointError, match="empty"):
        wkv.load(base, adapter=tmp_path / "empty")
    path = peft_on_official(tmp_path, pairs(random_checkpoint("6"), ["att.gate"]))
    with pytest.raises(wkv.CheckpointError, match="trained for"):
        wkv.load(base, adapter=path)


def test_commands_load_an_adapter(byte_model, tmp_path, capfd):
    tensors = random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256)
    path = rwkv_peft(tmp_path, pairs(tensors))
    command = ["generate", str(byte_model.path), "--prompt", "Hi", "--max-tokens", "8", "--json"]
    command += ["--temperature", "0", "--strategy", "cpu fp32", "--adapter", str(path)]
    assert main([*command, "--alpha", "40"]) == 0
    found = json.loads(capfd.readouterr().out)["token_ids"]
    adapted = wkv.load(byte_model.path, "cpu fp32", adapter=path, alpha=40)
    greedy = wkv.Sampling(temperature=0)
    assert found == wkv.generate(adapted, "Hi", sampling=greedy, max_tokens=8).token_ids
    assert found != wkv.generate(byte_model, "Hi", sampling=greedy, max_tokens=8).token_ids
    assert main(command) == 1
    assert "--alpha A" in capfd.readouterr().err
