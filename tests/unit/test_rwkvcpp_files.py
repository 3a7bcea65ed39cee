"""Files of rwkv.cpp as models. The writer here follows the description of the format."""

import random
import re
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.checkpoint import open_checkpoint
from wkv.errors import CheckpointError
from wkv.inference.describe import describe

NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 7, "Q5_1": 8, "Q8_0": 9}
GENERATIONS = ["4", "5.0", "5.1", "5.2", "6", "7"]
IDS = [3, 200, 17, 42, 9]


def record(name, array, kind="F32"):
    """Return a tensor as rwkv.cpp stores it; blocks are made by the gguf package."""
    if kind == "F32":
        data = array.astype(np.float32).tobytes()
    elif kind == "F16":
        data = array.astype(np.float16).tobytes()
    else:
        gguf = pytest.importorskip("gguf")
        types = gguf.GGMLQuantizationType
        data = gguf.quants.quantize(array.astype(np.float32), types[kind]).tobytes()
    axes = struct.pack(f"<{array.ndim}i", *reversed(array.shape))
    head = struct.pack("<3i", array.ndim, len(name), NUMBERS[kind])
    return head + axes + name.encode() + data


def file_of(records, V=300, D=128, L=3, kind="F32", version=101):
    head = struct.pack("<6i", 0x67676D66, version, V, D, L, NUMBERS[kind])
    return head + b"".join(records)


def converted(generation, tensors):
    """Prepare raw tensors for rwkv.cpp, as its converter does."""
    result = {}
    for name, tensor in tensors.items():
        value, ending = tensor.double(), name.rpartition(".")[2]
        if ".time_" in name:
            value = value.squeeze()
        if generation == "4" and ending == "time_decay":
            value = -value.exp()
        elif generation.startswith("5") and ending == "time_decay":
            value = (-value.exp()).exp()
        elif generation == "5.0" and ending == "time_first":
            value = value.exp()
        if generation == "5.0" and ending in ("time_decay", "time_first"):
            value = value.reshape(-1, 1, 1)
        elif generation[0] in "56" and ending in ("time_decay", "time_faaaa"):
            heads = tensors["blocks.0.att.time_faaaa"].shape[0]
            value = value.reshape(heads, -1, 1) if generation != "5.1" else value.reshape(heads, 1)
        if re.fullmatch(r"time_maa_w1|time_decay_w[12]|[wavg][12]", ending):
            value = value.t()
        elif ending == "time_maa_w2":
            value = value.transpose(1, 2)
        result[name] = value
    for name in [name for name in result if name.endswith("att.x_r")]:
        parts = [result.pop(name[:-1] + letter) for letter in "rwkvag"]
        result[name.removesuffix("r") + "rwkvag"] = torch.cat(parts)
    return {name: value.numpy() for name, value in result.items()}


def written(path, generation, tensors, kind="F32"):
    def kind_of(name, array):
        is_matrix = array.ndim == 2 and name.endswith(".weight")
        if kind == "F16" and (is_matrix or re.search(r"\.[wavg][12]$", name)):
            return "F16"
        return kind if kind != "F16" and is_matrix and name.startswith("blocks.") else "F32"

    arrays = converted(generation, tensors)
    records = [record(name, array, kind_of(name, array)) for name, array in arrays.items()]
    path.write_bytes(file_of(records, kind=kind))
    return path


@pytest.mark.parametrize("generation", GENERATIONS)
def test_tensors_and_logits_are_those_of_the_original(tmp_path, generation):
    tensors = random_checkpoint(generation)
    save_pth(tensors, tmp_path / "m.pth")
    path = written(tmp_path / "m.bin", generation, tensors)
    found = describe(path)
    source = describe(tmp_path / "m.pth")
    assert found.config == source.config
    for name, shape in source.shapes.items():
        value, expected = found.checkpoint[name].reshape(shape), tensors[name].reshape(shape)
        if name.endswith(("time_decay", "time_first")):
            torch.testing.assert_close(value, expected, rtol=2e-4, atol=1e-6)
        else:
            assert torch.equal(value, expected), name
    one, other = (wkv.load(p, "cpu fp32", tokenizer="bytes") for p in (path, tmp_path / "m.pth"))
    difference = (one.forward(IDS)[0] - other.forward(IDS)[0]).abs().max()
    assert difference < 1e-5


@pytest.mark.parametrize("kind", ["F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("generation", ["6", "7"])
def test_rounded_matrices(tmp_path, generation, kind):
    tensors = random_checkpoint(generation)
    found = describe(written(tmp_path / "m.bin", generation, tensors, kind))
    name = "blocks.1.att.key.weight"
    if kind == "F16":
        expected = tensors[name].half()
    else:
        gguf = pytest.importorskip("gguf")
        stored = gguf.GGMLQuantizationType[kind]
        blocks = gguf.quants.quantize(tensors[name].numpy(), stored)
        expected = torch.from_numpy(gguf.quants.dequantize(blocks, stored))
    assert torch.equal(found.checkpoint[name], expected)
    assert found.dtypes == {torch.float16}
    assert kind in found.checkpoint.stored_types


def test_the_bytes_of_the_documented_example(tmp_path):
    first = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    content = bytes.fromhex("666d6767 65000000 03000000 02000000 01000000 00000000")
    content += struct.pack("<5i", 2, 10, 0, 2, 3) + b"emb.weight" + first.tobytes()
    content += struct.pack("<4i", 1, 19, 0, 1) + b"blocks.0.ln1.weight" + b"\0\0\x80\x3f"
    records = [record("emb.weight", first), record("blocks.0.ln1.weight", np.ones(1))]
    assert content == file_of(records, V=3, D=2, L=1)
    (tmp_path / "m.bin").write_bytes(content)
    found = open_checkpoint(tmp_path / "m.bin")
    assert found["emb.weight"].tolist() == first.tolist()
    assert found["blocks.0.ln1.weight"].tolist() == [1]


ONE = record("emb.weight", np.ones((4, 32)))
WRONG = {
    "short": (b"fmgg" + bytes(8), "within its header"),
    "version": (file_of([ONE], version=99), "version 99.*expected 100 or 101"),
    "description": (file_of([ONE, b"\1\0"]), "within the description"),
    "axes": (file_of([struct.pack("<3i", 7, 4, 0) + bytes(99)]), "7 axes"),
    "name": (file_of([struct.pack("<3i", 1, 2**30, 0) + bytes(99)]), "name of 1073741824 bytes"),
    "format": (file_of([struct.pack("<4i", 1, 1, 12, 32) + b"x"]), "number format 12"),
    "sizes": (file_of([struct.pack("<5i", 2, 1, 0, -4, 4) + b"x" + bytes(99)]), "sizes"),
    "long": (file_of([struct.pack("<5i", 2, 1, 0, 2**30, 2**30) + b"x"]), "longer than the rest"),
    "twice": (file_of([ONE, ONE]), "occurs twice"),
    "no model": (file_of([ONE]), "not an RWKV|no RWKV|cannot be|is not"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_files(tmp_path, case):
    content, message = WRONG[case]
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(path)
    assert "\n" not in str(caught.value)


def test_quantized_files_of_2023_are_named(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(file_of([record("emb.weight", np.ones((4, 32)), "Q4_0")], version=100))
    with pytest.raises(CheckpointError, match="early 2023"):
        open_checkpoint(path)


def test_any_damage_is_an_error_of_wkv(tmp_path):
    path = written(tmp_path / "m.bin", "6", random_checkpoint("6", n_embd=32, n_layer=1))
    content, draw = path.read_bytes(), random.Random(0)
    for _ in range(150):
        damaged = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for _ in range(draw.randrange(4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        with suppress(CheckpointError):
            description = describe(path)
            for name in description.shapes:
                assert description.checkpoint[name].numel()
