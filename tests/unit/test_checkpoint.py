"""Files that are no checkpoints, and checkpoints that are damaged: one sentence each."""

import contextlib
import json
import os
import pickle
from random import Random

import pytest
import torch
from safetensors.torch import save_file

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.errors import CatalogError, CheckpointError
from wkv.inference.describe import describe


class Evil:
    """Runs code when it is unpickled the careless way."""

    def __init__(self, function, argument):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


ATTACKS = {
    "eval": Evil(eval, "open('was-run', 'w').close()"),
    "os.system": Evil(os.system, "touch was-run"),
}


def _refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        wkv.load(path, "cpu fp32")
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message or path.name in message
    return message


@pytest.fixture
def tensors():
    """Give a small RWKV-7, to be damaged."""
    return random_checkpoint("7", n_layer=2, n_embd=64)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_generation_and_sizes_are_detected(checkpoint_paths, generation):
    config = describe(checkpoint_paths[generation]).config
    assert config.generation == generation
    assert (config.n_layer, config.n_embd, config.vocab_size) == (3, 128, 300)
    expected = (None, None) if generation == "4" else (4, 32)
    assert (config.n_head, config.head_size) == expected


@pytest.mark.parametrize("generation", GENERATIONS)
def test_generation_does_not_depend_on_the_order_of_tensors(tmp_path, generation):
    tensors = random_checkpoint(generation, n_layer=1, n_embd=64)
    path = tmp_path / "reversed.safetensors"
    save_file(dict(reversed([(k, v.contiguous()) for k, v in tensors.items()])), path)
    assert describe(path).config.generation == generation


def test_safetensors_sharded_and_pth_hold_the_same_model(tmp_path, tensors):
    save_pth(tensors, tmp_path / "m.pth")
    save_file(tensors, tmp_path / "m.safetensors")
    names = list(tensors)
    parts = {"s-00001-of-00002.safetensors": names[:20], "s-00002-of-00002.safetensors": names[20:]}
    for file, chosen in parts.items():
        save_file({name: tensors[name] for name in chosen}, tmp_path / file)
    weight_map = {name: file for file, chosen in parts.items() for name in chosen}
    index = tmp_path / "s.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    loaded = [
        wkv.load(tmp_path / name, "cpu fp32")
        for name in ("m.pth", "m", "m.safetensors", index.name, "s-00001-of-00002.safetensors")
    ]
    logits = [model.forward([1, 2, 3])[0] for model in loaded]
    assert all(torch.equal(logits[0], other) for other in logits)
    assert len({model.identity for model in loaded}) == 1


def test_a_state_moves_between_dtypes_of_one_model_but_not_between_models(tmp_path, tensors):
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_pth(half, tmp_path / "m.pth")
    save_pth({name: tensor.float() for name, tensor in half.items()}, tmp_path / "f.pth")
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, seed=9), tmp_path / "o.pth")
    model = wkv.load(tmp_path / "m.pth", "cpu bf16")
    _, state = model.forward([1, 2, 3])
    state.save(tmp_path / "s.safetensors")
    finer = wkv.load(tmp_path / "f.pth", "cpu fp32")
    finer.forward([4], wkv.State.load(tmp_path / "s.safetensors", finer))
    other = wkv.load(tmp_path / "o.pth", "cpu fp32")
    with pytest.raises(wkv.StateError, match="belongs to another model"):
        wkv.State.load(tmp_path / "s.safetensors", other)
    with pytest.raises(wkv.StateError, match="belongs to another model"):
        other.forward([4], state)


def test_vectors_with_or_without_axes_of_size_one(tmp_path, tensors):
    plain = {
        name: tensor.squeeze() if name != "blocks.0.att.r_k" else tensor
        for name, tensor in tensors.items()
    }
    plain = {name: tensor.contiguous() for name, tensor in plain.items()}
    save_pth(tensors, tmp_path / "a.pth")
    save_pth(plain, tmp_path / "b.pth")
    a, b = (wkv.load(tmp_path / name, "cpu fp32") for name in ("a.pth", "b.pth"))
    assert torch.equal(a.forward([1, 2])[0], b.forward([1, 2])[0])


def test_block_0_of_rwkv7_may_lack_what_it_never_uses(tmp_path, tensors):
    for name in ("v0", "v1", "v2"):
        del tensors[f"blocks.0.att.{name}"]
    save_pth(tensors, tmp_path / "m.pth")
    assert wkv.load(tmp_path / "m.pth", "cpu fp32").config.generation == "7"


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch, attack, form):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    content = {"emb.weight": ATTACKS[attack]}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    message = _refused(path, "wants to run code.*source you trust")
    assert "weights_only" not in message
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("form", ["pth", "legacy", "safetensors"])
def test_files_with_flipped_bytes_load_or_are_refused(tmp_path, form):
    path = tmp_path / "m"
    tensors = random_checkpoint("4", n_layer=1, n_embd=32, vocab_size=40)
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "pth")
    content = path.read_bytes()
    random = Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        # Headers and pickles lie at the ends; what is between is values, all of them valid.
        place = random.randrange(1500) * random.choice((1, -1))
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            wkv.load(path, "cpu fp32")


def test_tensors_without_plain_values_are_refused(tmp_path, tensors):
    for odd in (torch.zeros(64, device="meta"), torch.zeros(64).to_sparse()):
        torch.save({**tensors, "ln_out.bias": odd}, tmp_path / "m.pth")
        _refused(tmp_path / "m.pth", "plain tensors|damaged")


def test_a_stray_block_number_is_refused_at_once(tmp_path, tensors):
    tensors["blocks.200000.att.x_r"] = torch.zeros(1)
    save_pth(tensors, tmp_path / "m.pth")
    _refused(tmp_path / "m.pth", r"blocks\.2\.\* \(before blocks\.200000\.att\.x_r, .* is missing")


def test_types_that_wkv_cannot_read_are_named(tmp_path, tensors):
    tensors["emb.weight"] = tensors["emb.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, tmp_path / "m.safetensors")
    _refused(tmp_path / "m.safetensors", "F8_E4M3.*F32, F16 or BF16")


@pytest.mark.parametrize("path", [5, b"x", "~nosuchuser/x", "x" * 5000, "a\0b"])
def test_impossible_paths(path):
    with pytest.raises(CheckpointError, match=r"opened|no such file"):
        wkv.load(path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tokenizer": 5}, "int is not a tokenizer"),
        ({"tokenizer": "world"}, "65530 ids and the model only"),
        ({"group_norm_eps": "x"}, "expected a number"),
        ({"strategy": "cuda:300 fp16"}, "cuda:300"),
        ({"strategy": "cuda:99999999999999999999 fp16"}, "cuda:9999"),
    ],
)
def test_impossible_options(options, match):
    with pytest.raises(wkv.WKVError, match=match):
        wkv.load(**options)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_truncated_files(tmp_path, tensors, ending, share):
    path = tmp_path / f"m.{ending}"
    save_pth(tensors, path) if ending == "pth" else save_file(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    _refused(path, "truncated|empty|neither|text|damaged")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"hello, this is a note\n", "is text.*hello"),
        (b"<!DOCTYPE html><html>", "is text.*DOCTYPE"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"GGUF\x03\x00\x00\x00", "ends within its header"),
        (b"PK\x05\x06", "bytes"),
        (b"fmgg\x65\x00\x00\x00", "ends within its header"),
        (b"\x00\x01\x02\x03", "bytes 00 01 02 03"),
        (b"", "empty"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, match):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    _refused(path, match)


def test_directories_and_missing_files(tmp_path, tensors):
    _refused(tmp_path, "there is no checkpoint in this folder; give the path of a .pth")
    _refused(tmp_path / "nothing.pth", "no such file")
    (tmp_path / "other.safetensors").touch()
    _refused(tmp_path, r"give a file, such as .*other\.safetensors")
    save_pth(tensors, tmp_path / "new.pth")
    save_pth({}, tmp_path / "old.pth")
    os.utime(tmp_path / "old.pth", (1, 1))
    assert wkv.load(tmp_path).path.name == "new.pth"  # the newest, as ChatRWKV takes it
    (tmp_path / "new.pth").rename(tmp_path / "rwkv-final.pth")
    (tmp_path / "old.pth").touch()
    assert wkv.load(f"{tmp_path}/").path.name == "rwkv-final.pth"


def test_the_exact_path_is_preferred_to_a_missing_extension(tmp_path, tensors):
    (tmp_path / "m").mkdir()
    save_pth(tensors, tmp_path / "m.pth")
    _refused(tmp_path / "m", r"no checkpoint in this folder; give a file, such as .*m\.pth")
    save_pth(tensors, tmp_path / "m" / "inside.pth")
    for path in (tmp_path / "m", f"{tmp_path}/m/"):
        assert wkv.load(path).path.name == "inside.pth"
    assert wkv.load(tmp_path / "m.pth").path.name == "m.pth"
    save_pth(tensors, tmp_path / "n.pth")
    assert wkv.load(tmp_path / "n").path.name == "n.pth"
    _refused(f"{tmp_path}/n/", "no such file or folder")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("RWKV/rwkv-4-world-3b", "run: wkv pull RWKV/rwkv-4-world-3b"),
        ("https://huggingface.co/a/b-c", "run: wkv pull a/b-c"),
        ("https://huggingface.co/a/b/tree/main", "run: wkv pull a/b"),
        ("BlinkDL/rwkv7-g1", r"one of its models: g1:0\.1b, "),
        ("https://huggingface.co/a/b/resolve/main/c.pth", "run: wkv pull a/b/c.pth"),
        ("https://a.b/c.html", r"ends in '\.html', expected that of a file"),
        ("models/m.pth", "no such file or folder; expected a .pth"),
        ("a/b/c", "no such file or folder; expected a .pth"),
    ],
)
def test_names_of_the_hub_are_explained(tmp_path, monkeypatch, name, match):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((CheckpointError, CatalogError), match=match):
        wkv.load(name)


def test_all_wrong_tensors_are_named_at_once(tmp_path, tensors):
    del tensors["blocks.1.att.key.weight"]
    tensors["blocks.0.att.w2"] = tensors["blocks.0.att.w2"][:-1].contiguous()
    tensors["blocks.1.att.surprise"] = torch.zeros(3)
    tensors["blocks.1.ln1.weight"] = torch.zeros(64, dtype=torch.int64)
    save_pth(tensors, tmp_path / "m.pth")
    message = _refused(tmp_path / "m.pth", "missing")
    for part in ("blocks.1.att.key.weight", "(23, 64)", "surprise", "int64"):
        assert part in message, part


def test_a_long_list_of_missing_tensors_is_counted(tmp_path, tensors):
    kept = {name: tensor for name, tensor in tensors.items() if ".1.ffn" not in name}
    kept = {name: tensor for name, tensor in kept.items() if ".1.att.x_" not in name}
    save_pth(kept, tmp_path / "m.pth")
    _refused(tmp_path / "m.pth", "and 5 more")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("blocks.0.qkv.qq.weight", "RWKV-7b"),
        ("blocks.0.ffnPre.key.weight", "ffnPre"),
        ("blocks.1.tiny_q.weight", "tiny attention"),
        ("head_q.weight", "head_q"),
        ("pos_emb_x", "position embedding"),
        ("blocks.0.att.qq.weight", "hybrid"),
        ("blocks.0.att.time_maa_rkvw_w1", "experimental"),
        ("blocks.0.att.gate_w1", "experimental"),
    ],
)
def test_experimental_variants_are_refused_by_name(tmp_path, tensors, name, match):
    tensors[name] = torch.zeros(2)
    save_pth(tensors, tmp_path / "m.pth")
    assert name in _refused(tmp_path / "m.pth", match)


@pytest.mark.parametrize(
    ("notes", "match"),
    [
        ({"_version": "0.6"}, r"convert_model 0\.6 wrote.*convert the original"),
        ({"_version": "new"}, "metadata of convert_model is damaged"),
        ({"_version": "0.7", "_rescale_layer": "x"}, "metadata of convert_model is damaged"),
        ({"_version": "0.7"}, "misshapen: blocks.0.ffn.key.weight"),  # it is not transposed
    ],
)
def test_a_file_that_convert_model_cannot_have_written_is_refused(tmp_path, tensors, notes, match):
    torch.save({**tensors, "_strategy": "cpu fp32", **notes}, tmp_path / "m.pth")
    _refused(tmp_path / "m.pth", match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"rwkv.blocks.0.attention.key.weight": torch.zeros(2, 2)}, "not an RWKV checkpoint"),
        ({"model.layers.0.attn.x_r": torch.zeros(2)}, "not an RWKV checkpoint"),
        ({"model.layers.0.self_attn.q_proj.weight": torch.zeros(2)}, "this is a Llama"),
        ({"model.layers.0.self_attn.q_proj.bias": torch.zeros(2)}, "this is a Qwen2"),
        ({"h.0.attn.c_attn.weight": torch.zeros(2)}, "this is a GPT-2"),
        ({"gpt_neox.layers.0.mlp.x": torch.zeros(2)}, "this is a GPT-NeoX"),
        ({"model.layers.0.other": torch.zeros(2)}, "another Hugging Face layout"),
        ({"weight": torch.zeros(2)}, "not an RWKV checkpoint"),
        ({}, "not an RWKV checkpoint"),
        ({"model": {"emb.weight": torch.zeros(2)}, "step": 3}, r"state_dict\(\) alone"),
        ([torch.zeros(2)], "contains a list"),
        (torch.zeros(2), "contains a Tensor"),
    ],
)
def test_other_contents(tmp_path, content, match):
    torch.save(content, tmp_path / "m.pth")
    _refused(tmp_path / "m.pth", match)


def test_indexes_that_lie(tmp_path, tensors):
    save_file(tensors, tmp_path / "a.safetensors")
    index = tmp_path / "m.safetensors.index.json"
    for weight_map, match in (
        ({"emb.weight": "gone.safetensors"}, "the shard gone.safetensors is missing"),
        ({"emb.weight": "../a.safetensors"}, "outside its folder"),
        ({"other": "a.safetensors"}, "not in a.safetensors"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        _refused(index, match)
    index.write_text("{}")
    _refused(index, "cannot be read")
    (tmp_path / "x-00001-of-00003.safetensors").write_bytes(b"x")
    _refused(tmp_path / "x-00001-of-00003.safetensors", "one of several shards")


def test_float16_and_float64_files_load(tmp_path, tensors):
    for dtype in (torch.float16, torch.float64):
        save_pth({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "m.pth")
        assert wkv.load(tmp_path / "m.pth").strategy.dtype == torch.float32
