"""`wkv verify`: the same model in every format, and models that only look the same."""

import json

import pytest
import torch

from tests.checkpoints import random_checkpoint, save_pth
from wkv.cli import main
from wkv.convert.compare import compare
from wkv.models.int8 import dequantize, quantize
from wkv.tokenizers.world import write_vocabulary

VOCABULARY = {byte + 1: bytes([byte]) for byte in range(256)} | {257: b"\n\n"}
SIZES = {"n_embd": 128, "head_size": 64, "vocab_size": 300, "n_layer": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "m.pth"
    save_pth(random_checkpoint("7", **SIZES), path)
    write_vocabulary(VOCABULARY, path.with_suffix(".vocab.txt"))
    return path


CONVERSIONS = {
    "safetensors": (["--to", "safetensors"], "the same numbers", 0.0),
    "hf": (["--to", "hf"], "the same numbers", 0.0),
    "hf bf16": (["--to", "hf", "--dtype", "bf16"], "bf16", 2e-3),
    "fp16": (["--to", "safetensors", "--strategy", "cpu fp16"], "fp16", 4e-4),
    "int8 of ChatRWKV": (["--to", "pth", "--strategy", "cpu fp32i8"], "8 bits", 0.01),
    "gguf": (["--to", "gguf", "--dtype", "fp32"], "the same numbers", 0.0),
    "gguf q8_0": (["--to", "gguf", "--dtype", "q8_0"], "8 bits", 0.01),
}


@pytest.mark.parametrize("case", CONVERSIONS)
def test_a_converted_model_is_the_same(source, tmp_path, case):
    options, precision, expected = CONVERSIONS[case]
    if "gguf" in case:
        pytest.importorskip("gguf")
    assert main(["convert", str(source), str(tmp_path / "x"), *options]) == 0
    (written,) = (p for p in tmp_path.iterdir() if not p.name.endswith(".vocab.txt"))
    found = compare(source, written)
    assert found.is_same, found.problems
    assert found.precision.name == precision
    assert found.worst.relative <= expected
    assert found.tokenizers == "equal"
    assert found.n_tokens > 20
    assert compare(written, source).is_same


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_a_quantized_model_is_the_same(source, tmp_path, form):
    assert main(["quantize", str(source), str(tmp_path / "q"), "--to", form]) == 0
    found = compare(source, tmp_path / "q.safetensors")
    assert found.worst.relative < {"int8": 0.01, "int4": 0.12}[form]
    assert found.precision.name == f"{form[-1]} bits"


def changed(source, tmp_path, name, change):
    tensors = torch.load(source)
    tensors[name] = change(tensors[name])
    path = tmp_path / "changed.pth"
    save_pth(tensors, path)
    write_vocabulary(VOCABULARY, path.with_suffix(".vocab.txt"))
    return path


CHANGES = {
    "a row of zeros": ("blocks.1.ffn.key.weight", lambda w: w.index_fill(0, torch.tensor([3]), 0)),
    "transposed": ("blocks.0.att.receptance.weight", lambda w: w.t().contiguous()),
    "a small training": ("blocks.1.att.value.weight", lambda w: w * 1.001),
    "NaN": ("blocks.0.ln1.bias", lambda w: w.index_fill(0, torch.tensor([0]), float("nan"))),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_tensor_is_found(source, tmp_path, case, capsys):
    name, change = CHANGES[case]
    other = changed(source, tmp_path, name, change)
    found = compare(source, other, logits=False)
    assert found.worst.name == name
    assert not found.is_same
    assert main(["verify", str(source), "--against", str(other), "--tensors-only"]) == 1
    printed = capsys.readouterr().out
    assert "not the same model:\n  1 of" in printed
    assert name in printed


def test_other_tokenizers_sizes_and_generations(source, tmp_path):
    same = changed(source, tmp_path, "head.weight", lambda w: w)
    write_vocabulary(VOCABULARY | {258: b"the"}, same.with_suffix(".vocab.txt"))
    assert compare(source, same, text="the cat").problems == (
        "the tokenizers differ, so the models read texts differently",
    )
    for generation, sizes, message in (
        ("6", SIZES, "RWKV-7 and RWKV-6"),
        ("7", SIZES | {"n_layer": 3}, "n_layer is 2 and 3"),
    ):
        save_pth(random_checkpoint(generation, **sizes), tmp_path / "other.pth")
        found = compare(source, tmp_path / "other.pth")
        assert found.problems == (message,)
        assert not found.is_same


def test_exit_status_and_json(source, tmp_path, capsys):
    assert main(["verify", str(source), "--against", str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"] is True
    assert found["logits"] == 0
    assert found["n_greedy"] == found["n_tokens"]
    save_pth(random_checkpoint("7", seed=1, **SIZES), tmp_path / "other.pth")
    assert main(["verify", str(source), "--against", str(tmp_path / "other.pth"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["same"]
    assert found["divergence"] > 0.1
    text = tmp_path / "text.txt"
    text.write_text("User: hello" * 3)
    assert main(["verify", str(source), "--against", str(source), "--text", str(text)]) == 0
    assert f"predictions of {len('User: hello' * 3)} tokens" in capsys.readouterr().out
    assert main(["verify", str(source), "--against", str(tmp_path / "none.pth")]) == 1
    assert "none.pth" in capsys.readouterr().err


def test_int8_matrices_are_converted_back():
    weight = torch.randn(70, 50)
    assert (dequantize(quantize(weight)) - weight).abs().max() < 0.05
