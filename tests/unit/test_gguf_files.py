"""GGUF files as models: values, names, vocabulary; damaged files, and files of other models."""

import random
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.checkpoint.blocks import SIZES as OWN
from wkv.checkpoint.blocks import decode
from wkv.checkpoint.gguf_header import BLOCK_TYPES
from wkv.cli import main
from wkv.convert.gguf.export import write_gguf
from wkv.convert.gguf.target import escaped
from wkv.errors import CheckpointError, TokenizerError
from wkv.inference.describe import describe
from wkv.tokenizers.gguf_vocabulary import gguf_tokenizer, unescaped
from wkv.tokenizers.world import WorldTokenizer, write_vocabulary

gguf = pytest.importorskip("gguf")
from gguf import GGMLQuantizationType as Type  # noqa: E402

VOCABULARY = {byte + 1: bytes([byte]) for byte in range(256)} | {
    257: b"\n\n",
    258: b"\xff\xfe'\"\\",
}
SIZES = {"n_embd": 128, "head_size": 64, "vocab_size": 300, "n_layer": 2}
FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
IDS = [1, 2, 259, 17, 3]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    paths = {}
    for generation in ("6", "7"):
        paths[generation] = folder / f"rwkv-{generation}.pth"
        save_pth(random_checkpoint(generation, **SIZES), paths[generation])
        write_vocabulary(VOCABULARY, paths[generation].with_suffix(".vocab.txt"))
    return paths


def written(source, path, *, kind=None, fields=(), change=lambda tensors: tensors):
    """Write a file with llama.cpp's package, with changed tensors and fields."""
    reader = gguf.GGUFReader(write_gguf(source, path.with_suffix(".fp32.gguf"), dtype="fp32").path)
    values = {
        f.name: f.contents() for f in reader.fields.values() if not f.name.startswith("GGUF.")
    }
    values |= dict(fields)
    writer = gguf.GGUFWriter(path, values.pop("general.architecture"))
    for name, value in values.items():
        adders = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        adders.get(type(value), writer.add_array)(name, value)
    tensors = {
        t.name: np.array(t.data).reshape([int(n) for n in t.shape[::-1]]) for t in reader.tensors
    }
    for name, array in change(tensors).items():
        quantized = kind is not None and array.ndim == 2 and array.shape[1] % 32 == 0
        if quantized and name.endswith(("_key.weight", "_value.weight", "output.weight")):
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("generation", ["6", "7"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_every_tensor_is_the_source_in_the_dtype_of_the_file(sources, tmp_path, generation, dtype):
    source = describe(sources[generation])
    found = describe(write_gguf(sources[generation], tmp_path / "m", dtype=dtype).path)
    assert found.config == source.config
    assert set(found.shapes) <= set(found.checkpoint)
    for name, shape in source.shapes.items():
        kind = found.checkpoint.dtypes[name]
        expected = source.checkpoint[name].reshape(shape).to(kind)
        assert kind in (torch.float32, FLOATS[dtype]), name
        assert found.checkpoint[name].dtype == kind
        assert torch.equal(found.checkpoint[name].reshape(shape), expected), name


@pytest.mark.parametrize("generation", ["6", "7"])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_0", "Q4_1"])
def test_quantized_matrices_have_the_values_of_llama_cpp(sources, tmp_path, generation, kind):
    path = written(sources[generation], tmp_path / "m.gguf", kind=Type[kind])
    found = describe(path)
    assert kind in found.checkpoint.stored_types
    source = describe(sources[generation]).checkpoint
    for name in ("blocks.0.att.key.weight", "blocks.1.ffn.value.weight", "head.weight"):
        expected = gguf.quants.dequantize(
            gguf.quants.quantize(source[name].numpy(), Type[kind]), Type[kind]
        )
        assert torch.equal(found.checkpoint[name], torch.from_numpy(expected)), name
    model = wkv.load(path, "cpu fp32")
    tensors = {name: found.checkpoint[name].clone() for name in found.shapes}
    save_pth(tensors, tmp_path / "same.pth")
    same = wkv.load(tmp_path / "same.pth", "cpu fp32", tokenizer="bytes")
    assert torch.equal(model.forward(IDS)[0], same.forward(IDS)[0])


@settings(max_examples=30)
@given(data=st.binary(min_size=5 * 34, max_size=5 * 34))
def test_own_decoders_equal_those_of_the_package(data):
    for name, size in OWN.items():
        blocks = np.frombuffer(data, np.uint8)[: 5 * size].copy().reshape(5, size)
        blocks[:, [1, 3]] &= 0x7B  # finite scales and minimums
        expected = gguf.quants.dequantize(blocks, Type[name])
        found = decode(name, blocks.reshape(-1)).numpy()
        assert np.array_equal(found.reshape(-1), expected.reshape(-1))


def test_sizes_of_blocks_are_those_of_the_package():
    for number, kind in BLOCK_TYPES.items():
        assert Type(number).name == kind.name
        assert gguf.GGML_QUANT_SIZES[Type(number)] == (kind.values, kind.n_bytes)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL"])
def test_other_types_are_decoded_by_the_package(tmp_path, kind):
    blocks = np.random.default_rng(0).integers(0, 60, (8, gguf.GGML_QUANT_SIZES[Type[kind]][1]))
    blocks = blocks.astype(np.uint8)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "rwkv7")
    writer.add_tensor("output.weight", blocks, raw_dtype=Type[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = wkv.checkpoint.open_checkpoint(path)["output.weight"]
    assert np.array_equal(found.numpy(), gguf.quants.dequantize(blocks, Type[kind]))


def test_files_of_2024_have_separate_shifts_and_divided_weights(sources, tmp_path):
    def earlier(tensors):
        changed = {}
        for name, array in tensors.items():
            if "lerp_fused" in name:
                for letter, row in zip("wkvrg", array, strict=True):
                    changed[name.replace("fused", letter)] = row.reshape(1, 1, -1)
            elif name in ("blk.1.time_mix_output.weight", "blk.1.channel_mix_value.weight"):
                changed[name] = array / 2
            else:
                changed[name] = array
        return changed

    path = written(
        sources["6"],
        tmp_path / "m.gguf",
        fields={"rwkv6.rescale_every_n_layers": 1},
        change=earlier,
    )
    source, found = describe(sources["6"]), describe(path)
    for name, shape in source.shapes.items():
        expected = source.checkpoint[name].reshape(shape)
        assert torch.equal(found.checkpoint[name].reshape(shape), expected), name


def test_auto_is_as_precise_as_the_file(sources, tmp_path):
    dtypes = {
        kind: describe(write_gguf(sources["7"], tmp_path / kind, dtype=kind).path).dtypes
        for kind in ("fp32", "fp16", "bf16", "q8_0")
    }
    assert dtypes == {name: {dtype} for name, dtype in FLOATS.items()} | {"q8_0": {torch.float16}}


def test_the_vocabulary_of_the_file_is_used(sources, tmp_path):
    path = write_gguf(sources["7"], tmp_path / "m").path
    model = wkv.load(path)
    assert model.tokenizer.entries == VOCABULARY
    assert main(["convert", str(path), str(tmp_path / "again.pth"), "--to", "pth"]) == 0
    again = wkv.load(tmp_path / "again.pth")
    assert again.tokenizer.entries == VOCABULARY
    assert torch.equal(again.forward(IDS)[0], model.forward(IDS)[0])


@given(st.binary(max_size=20))
def test_tokens_are_unescaped(text):
    assert unescaped(escaped(text)) == text
    assert unescaped(repr(text)[2:-1]) == text


def test_a_vocabulary_that_does_not_fit(tmp_path):
    path = tmp_path / "m.gguf"
    tokens = ["<s>", *(escaped(bytes([byte])) for byte in range(256)), "[PAD]"]
    assert gguf_tokenizer(path, tokens, [3, *[1] * 256, 5], 258).n_tokens == 256
    with pytest.raises(TokenizerError, match="has 258 tokens and the model 300 ids"):
        gguf_tokenizer(path, tokens, [], 300)
    with pytest.raises(TokenizerError, match="occurs twice"):
        gguf_tokenizer(path, [*tokens[:-1], "a"], [], 258)


def test_world_is_recognized_and_another_vocabulary_of_its_size_is_reported(tmp_path, caplog):
    world = WorldTokenizer()
    tokens = [escaped(world.entries.get(token, b"")) for token in range(65536)]
    assert gguf_tokenizer(tmp_path, tokens, [], 65536).name == "world"
    tokens[300], tokens[301] = tokens[301], tokens[300]
    assert gguf_tokenizer(tmp_path, tokens, [], 65536).entries != world.entries
    assert "differs from World, first at id 300" in caplog.text


# ---- damaged files, and other models


def header(*fields, tensors=(), version=3, counts=None):
    """A file from its parts: fields (key, type, bytes), tensors (name, sizes, type, offset)."""

    def text(string):
        return struct.pack("<Q", len(string)) + string.encode()

    content = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(fields))))
    for key, kind, value in fields:
        content += text(key) + struct.pack("<I", kind) + value
    for name, sizes, kind, offset in tensors:
        content += text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return content + bytes(-len(content) % 32)


ARCHITECTURE = ("general.architecture", 8, struct.pack("<Q", 5) + b"llama")
WRONG = {
    "big endian": (header(version=3 << 24), "big endian"),
    "version": (header(version=1), "version 1 of GGUF"),
    "many tensors": (header(counts=(2**60, 0)), "announces"),
    "many fields": (header(counts=(0, 2**62)), "announces"),
    "long text": (header(("a", 8, struct.pack("<Q", 2**63))), "announces"),
    "long list": (header(("a", 9, struct.pack("<IQ", 10, 2**50))), "announces"),
    "deep list": (header(("a", 9, struct.pack("<IQ", 9, 1) * 40)), "type 9"),
    "field type": (header(("a", 77, b"")), "type 77"),
    "twice": (header(("a", 4, bytes(4)), ("a", 4, bytes(4))), "occurs twice"),
    "split": (header(("split.count", 2, b"\x03\x00")), "one of 3 parts.*llama-gguf-split"),
    "alignment": (header(("general.alignment", 4, bytes(4))), "general.alignment is 0"),
    "retired": (header(tensors=[("x", [32], 31, 0)]), "stored as Q4_0_4_4"),
    "unknown type": (header(tensors=[("x", [32], 999, 0)]), "type 999"),
    "axes": (header(tensors=[("x", [1] * 9, 0, 0)]), "9 axes"),
    "no size": (header(tensors=[("x", [0, 4], 0, 0)]), "sizes"),
    "part of a block": (header(tensors=[("x", [33], 8, 0)]), "multiple of 32"),
    "too long": (header(tensors=[("x", [2**39], 0, 0)]), "not downloaded completely"),
    "overlap": (header(tensors=[("x", [8], 0, 0), ("y", [8], 0, 0)]) + bytes(64), "overlaps"),
    "other model": (header(ARCHITECTURE), "'llama', expected rwkv6 or rwkv7"),
    "no model": (header(), "'none', expected rwkv6 or rwkv7"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_files_and_other_models(tmp_path, case):
    content, message = WRONG[case]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        describe(path)
    assert "\n" not in str(caught.value)


def test_any_damage_is_an_error_of_wkv(sources, tmp_path):
    content = write_gguf(sources["7"], tmp_path / "m").path.read_bytes()
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(content[: draw.choice([len(content), draw.randrange(len(content))])])
        for _ in range(draw.randrange(4)):
            damaged[draw.randrange(min(len(damaged), 20_000))] = draw.randrange(256)
        path = tmp_path / "damaged.gguf"
        path.write_bytes(damaged)
        with suppress(CheckpointError, TokenizerError):
            description = describe(path)
            description.tokenizer()
            for name in description.shapes:
                assert description.checkpoint[name].numel()


def test_a_folder_with_one_gguf_file(sources, tmp_path):
    path = write_gguf(sources["7"], tmp_path / "m").path
    assert describe(tmp_path).checkpoint.path == path
    assert describe(tmp_path).checkpoint.layout == "gguf"
