"""GGUF files: complete, equal to their source, named as llama.cpp wants, never half written."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.cli import main
from wkv.convert.gguf import verify as gguf_verify
from wkv.convert.gguf.export import write_gguf
from wkv.convert.gguf.target import escaped
from wkv.convert.huggingface.export import export
from wkv.convert.huggingface.tokenizer_files import chat_template_text
from wkv.tokenizers.world import write_vocabulary

gguf = pytest.importorskip("gguf")

VOCABULARY = {byte + 1: bytes([byte]) for byte in range(256)} | {
    257: b"\n\n", 258: b"User:", 259: "天".encode(), 260: b"\xff\xfe", 261: b"a\\b", 262: b"'\""
}  # fmt: skip
SIZES = {"n_embd": 128, "head_size": 64, "vocab_size": 300, "n_layer": 2}
ROUNDING = {"fp32": 0, "fp16": 2**-11, "bf16": 2**-8, "q8_0": 2**-6}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Give a model of each generation, with heads of 64 and a vocabulary beside it."""
    folder = tmp_path_factory.mktemp("sources")
    paths = {}
    for generation in ("4", "5.2", "6", "7", "7a"):
        paths[generation] = folder / f"rwkv-{generation.replace('.', '_')}.pth"
        save_pth(random_checkpoint(generation, **SIZES), paths[generation])
        write_vocabulary(VOCABULARY, paths[generation].with_suffix(".vocab.txt"))
    return paths


def tensors_of(path):
    """Every tensor of a file in float32, with its kind."""
    return {
        tensor.name: (
            torch.from_numpy(
                np.array(gguf.dequantize(tensor.data, tensor.tensor_type)).reshape(
                    [int(size) for size in tensor.shape[::-1]]
                )
            ),
            tensor.tensor_type.name,
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


def fields_of(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("generation", ["6", "7"])
def test_names_are_those_that_llama_cpp_loads(sources, generation, tmp_path):
    names = set(tensors_of(write_gguf(sources[generation], tmp_path / "x").path))
    arch = gguf.MODEL_ARCH[f"RWKV{generation}"]
    parts = {gguf.TENSOR_NAMES[part] for part in gguf.MODEL_TENSORS[arch]}
    expected = set()
    for part in parts:
        blocks = range(2) if "{bid}" in part else range(1)
        expected |= {part.format(bid=block) for block in blocks}
    # Each shift has a name of its own there as well, for files from before they were stacked.
    expected -= {f"blk.{b}.time_mix_lerp_{c}" for b in range(2) for c in "wkvrg"}
    assert {name.rsplit(".", 1)[0] for name in names} == expected
    biased = {"token_embd_norm", "output_norm"} | {
        f"blk.{block}.{norm}" for block in range(2) for norm in ("attn_norm", "attn_norm_2")
    }
    biased |= {f"blk.{block}.time_mix_ln" for block in range(2)}
    assert {name[:-5] for name in names if name.endswith(".bias")} == biased


def test_forms_of_6(sources, tmp_path):
    source = torch.load(sources["6"])
    found = {name: values for name, (values, _) in tensors_of(
        write_gguf(sources["6"], tmp_path / "x").path
    ).items()}  # fmt: skip
    att = "blocks.1.att."
    shifts = torch.stack([source[f"{att}time_maa_{letter}"][0, 0] for letter in "wkvrg"])
    assert torch.equal(found["blk.1.time_mix_lerp_fused.weight"], shifts[:, None, None])
    w2 = source[f"{att}time_maa_w2"]
    assert torch.equal(found["blk.1.time_mix_w2.weight"], w2.permute(0, 2, 1))
    assert torch.equal(found["blk.1.time_mix_w1.weight"], source[f"{att}time_maa_w1"].T)
    for part in "12":
        given = source[f"{att}time_decay_w{part}"]
        assert torch.equal(found[f"blk.1.time_mix_decay_w{part}.weight"], given.T)
    assert torch.equal(found["blk.1.time_mix_decay.weight"], source[f"{att}time_decay"].flatten())
    assert torch.equal(found["blk.1.time_mix_first.weight"], source[f"{att}time_faaaa"])
    assert torch.equal(found["blk.1.time_mix_gate.weight"], source[f"{att}gate.weight"])
    lerp = source["blocks.1.ffn.time_maa_r"].flatten()
    assert torch.equal(found["blk.1.channel_mix_lerp_r.weight"], lerp)
    assert torch.equal(found["token_embd_norm.bias"], source["blocks.0.ln0.bias"])


def test_forms_of_7(sources, tmp_path):
    source = torch.load(sources["7"])
    done = write_gguf(sources["7"], tmp_path / "x")
    found = {name: values for name, (values, _) in tensors_of(done.path).items()}
    att = "blocks.1.att."
    shifts = torch.stack([source[f"{att}x_{letter}"] for letter in "rwkvag"])
    assert torch.equal(found["blk.1.time_mix_lerp_fused.weight"], shifts)
    for letter in "wavg":
        for part in "12":
            given = source[f"{att}{letter}{part}"]
            assert torch.equal(found[f"blk.1.time_mix_{letter}{part}.weight"], given.T)
    for name in ("w0", "a0", "v0", "k_k", "k_a", "r_k"):
        given = source[f"{att}{name}"].flatten()
        assert torch.equal(found[f"blk.1.time_mix_{name}.weight"], given)
    for part in "012":  # llama.cpp wants a v in layer 0, of the size of a
        a, v = (found[f"blk.0.time_mix_{letter}{part}.weight"] for letter in "av")
        assert torch.equal(a, v)
    assert torch.equal(found["output.weight"], source["head.weight"])
    assert done.dropped == tuple(f"blocks.0.att.v{part}" for part in "012")


@pytest.mark.parametrize("generation", ["6", "7"])
@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_dtypes(sources, generation, dtype, tmp_path):
    exact = tensors_of(write_gguf(sources[generation], tmp_path / "exact").path)
    done = write_gguf(sources[generation], tmp_path / "x", dtype=dtype)
    assert done.dtype == dtype
    for name, (values, kind) in tensors_of(done.path).items():
        expected = exact[name][0]
        if values.ndim == 1 or "time_mix_w1" in name or "lerp" in name or "first" in name:
            assert kind == "F32"
        elif dtype == "q8_0":
            low_rank = any(f"time_mix_{x}{y}." in name for x in "avg" for y in "12")
            assert kind == (
                "F32" if "_w2" in name or "_w1" in name else "F16" if low_rank else "Q8_0"
            )
        else:
            assert kind == {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}[dtype] or "_w" in name
        limit = ROUNDING[dtype] * expected.abs().max()
        assert (values - expected).abs().max() <= limit, name
        if kind == "F32":
            assert torch.equal(values, expected)


@pytest.mark.parametrize("generation", ["6", "7"])
def test_metadata(sources, generation, tmp_path):
    fields = fields_of(write_gguf(sources[generation], tmp_path / "x", dtype="bf16").path)
    keys, arch = gguf.Keys, f"rwkv{generation}"
    expected = {
        keys.General.ARCHITECTURE: arch,
        keys.General.NAME: f"rwkv-{generation}",
        keys.General.FILE_TYPE: gguf.LlamaFileType.MOSTLY_BF16,
        keys.General.QUANTIZATION_VERSION: gguf.GGML_QUANT_VERSION,
        keys.LLM.EMBEDDING_LENGTH: 128,
        keys.LLM.BLOCK_COUNT: 2,
        keys.LLM.FEED_FORWARD_LENGTH: {"6": 448, "7": 512}[generation],
        keys.Attention.HEAD_COUNT: 0,
        keys.Attention.LAYERNORM_EPS: pytest.approx(1e-5),
        keys.WKV.HEAD_SIZE: 64,
        "general.sampling.top_p": pytest.approx(0.3),
        keys.Tokenizer.MODEL: "rwkv",
        keys.Tokenizer.BOS_ID: 0,
        keys.Tokenizer.EOS_ID: 0,
        keys.Tokenizer.EOT_ID: 257,
    }
    ranks = {
        "6": {
            keys.LLM.RESCALE_EVERY_N_LAYERS: 0,
            keys.LLM.TIME_MIX_EXTRA_DIM: 12,
            keys.LLM.TIME_DECAY_EXTRA_DIM: 20,
        },
        "7": {
            keys.Attention.DECAY_LORA_RANK: 24,
            keys.Attention.ICLR_LORA_RANK: 20,
            keys.Attention.VALUE_RESIDUAL_MIX_LORA_RANK: 16,
            keys.Attention.GATE_LORA_RANK: 40,
        },
    }[generation]
    for key, value in (expected | ranks).items():
        assert fields[key.format(arch=arch)] == value, key
    tokens, kinds = fields[keys.Tokenizer.LIST], fields[keys.Tokenizer.TOKEN_TYPE]
    assert len(tokens) == len(kinds) == len(set(tokens)) == 300
    kind = gguf.TokenType
    assert kinds[0] == kind.CONTROL
    assert set(kinds[1:263]) == {kind.NORMAL}
    assert set(kinds[263:]) == {kind.UNUSED}
    assert tokens[257:263] == [r"\n\n", "User:", r"\xe5\xa4\xa9", r"\xff\xfe", r"a\\b", "'\""]
    template = fields[keys.Tokenizer.CHAT_TEMPLATE]
    assert "rwkv-world" in template
    assert ("bos_token" in template) == (generation == "7")


def read_as_llama_cpp_does(text):
    """Undo the escapes of a token: \\t, \\n, \\r, \\xhh; any other escaped character is itself."""
    plain, rest = bytearray(), iter(text)
    for character in rest:
        if character != "\\":
            plain += character.encode()
            continue
        after = next(rest)
        if after == "x":
            plain.append(int(next(rest) + next(rest), 16))
        else:
            plain += {"t": b"\t", "n": b"\n", "r": b"\r"}.get(after, after.encode())
    return bytes(plain)


def test_every_token_of_the_world_is_read_back():
    from wkv.tokenizers.world import WorldTokenizer

    for text in [*WorldTokenizer().entries.values(), bytes(range(256))]:
        assert read_as_llama_cpp_does(escaped(text)) == text


def test_the_built_in_model_and_directories_of_others(sources, demo, tmp_path):
    done = write_gguf(None, tmp_path / "demo")
    assert (done.dtype, done.tokenizer) == ("bf16", "demo-rwkv7.vocab.txt")
    exact = tensors_of(write_gguf(sources["6"], tmp_path / "six").path)
    folder = export(sources["6"], tmp_path / "folder").path
    again = write_gguf(folder, tmp_path / "again.gguf", tokenizer=folder / "tokenizer.json")
    assert fields_of(again.path)["general.name"] == "folder"
    for name, (values, kind) in tensors_of(again.path).items():
        assert kind == exact[name][1]
        assert torch.equal(values, exact[name][0]), name


def test_models_that_llama_cpp_does_not_support(sources, tmp_path):
    for generation in ("4", "5.2", "7a"):
        with pytest.raises(wkv.InputError, match=r"llama\.cpp supports RWKV-6 and 7 only"):
            write_gguf(sources[generation], tmp_path / "x")
    made = {}
    for name, changes in {
        "narrow": {"head_size": 32}, "odd": {}, "bytes": {"vocab_size": 256},
        "pile": {"vocab_size": 50277}, "few": {}, "large": {},
    }.items():  # fmt: skip
        made[name] = tmp_path / f"{name}.pth"
        tensors = random_checkpoint("7", **(SIZES | {"n_layer": 1} | changes))
        if name == "large":
            tensors["head.weight"][3, 3] = 1e6
        save_pth(tensors, made[name])
    for name in ("narrow", "large"):
        write_vocabulary(VOCABULARY, made[name].with_suffix(".vocab.txt"))
    write_vocabulary({1: b"a"}, made["few"].with_suffix(".vocab.txt"))
    files = sorted(tmp_path.iterdir())
    for name, match in {
        "narrow": "heads have 32 channels",
        "odd": "no World vocabulary is known for 300 ids",
        "bytes": "is not a World tokenizer",
        "few": "lacks 255 of the 256 single bytes",
        "large": "more than float16 can represent",
    }.items():
        with pytest.raises(wkv.InputError, match=match):
            write_gguf(made[name], tmp_path / "x", dtype="fp16")
    with pytest.raises(wkv.InputError, match="dtype is 'int8'"):
        write_gguf(sources["7"], tmp_path / "x", dtype="int8")
    tuned = torch.load(sources["7"]) | {"blocks.0.att.time_state": torch.zeros(2, 64, 64)}
    tuned |= {"blocks.1.att.time_state": torch.zeros(2, 64, 64)}
    save_pth(tuned, made["odd"])
    with pytest.raises(wkv.CheckpointError, match="cannot contain the tuned initial state"):
        write_gguf(made["odd"], tmp_path / "x")
    assert sorted(tmp_path.iterdir()) == files


def test_destinations(sources, tmp_path, monkeypatch):
    source = sources["7"]
    path = write_gguf(source, tmp_path / "model.x").path
    assert path == tmp_path / "model.x.gguf"
    before = path.read_bytes()
    with pytest.raises(wkv.InputError, match="the file exists"):
        write_gguf(source, path, dtype="q8_0")
    assert path.read_bytes() == before
    write_gguf(source, path, dtype="q8_0", overwrite=True)
    assert path.stat().st_size < len(before)
    kept = path.read_bytes()
    with pytest.raises(wkv.InputError, match="there is no folder"):
        write_gguf(source, tmp_path / "no" / "x")
    (tmp_path / "d.gguf").mkdir()
    with pytest.raises(wkv.InputError, match="this is a folder"):
        write_gguf(source, tmp_path / "d")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(wkv.CheckpointError, match=r"could not be written.*No space left"):
        write_gguf(source, path, overwrite=True)
    assert path.read_bytes() == kept
    assert sorted(file.name for file in tmp_path.iterdir()) == ["d.gguf", "model.x.gguf"]


@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("victim", ["emb.weight", "blocks.1.att.x_a", "blocks.1.ffn.key.weight"])
def test_a_file_that_differs_is_not_saved(sources, dtype, victim, tmp_path, monkeypatch):
    from wkv.convert.gguf import export as module

    right = module.gguf_tensors

    def wrong(generation, tensors):
        changed = tensors[victim].clone()
        changed.view(-1)[5] += 0.05
        return right(generation, tensors | {victim: changed})

    monkeypatch.setattr(module, "gguf_tensors", wrong)
    with pytest.raises(wkv.CheckpointError, match=f"the first is {victim}"):
        module.write_gguf(sources["7"], tmp_path / "x", dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_wrong_fields_and_lost_tensors_are_seen(sources, tmp_path, monkeypatch):
    from wkv.convert.gguf import export as module

    right = module.gguf_tensors

    def lost(generation, tensors):
        made = right(generation, tensors)
        del made["output.weight"]
        return made

    monkeypatch.setattr(module, "gguf_tensors", lost)
    with pytest.raises(wkv.CheckpointError, match=r"the first is head\.weight"):
        module.write_gguf(sources["7"], tmp_path / "x")
    monkeypatch.setattr(module, "gguf_tensors", right)
    same = gguf_verify._same_field
    monkeypatch.setattr(
        gguf_verify,
        "_same_field",
        lambda reader, key, value: same(reader, key, value) and key[-4:] != "size",
    )
    with pytest.raises(wkv.CheckpointError, match=r"the first is rwkv7\.wkv\.head_size"):
        module.write_gguf(sources["7"], tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package(sources, tmp_path, monkeypatch):
    from wkv.convert.gguf import export as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(wkv.MissingExtraError, match="pip install -U gguf"):
        module.write_gguf(sources["7"], tmp_path / "x")


class Reader:
    """Answers as llama.cpp's Python package does: with what wkv says, and an error added to it."""

    def __init__(self, source, error):
        self.model, (self.token_error, self.logit_error) = wkv.load(source, "cpu fp32"), error

    def __call__(self, path, **_):
        assert tensors_of(path)
        return self

    def tokenize(self, text, add_bos, special):
        assert not add_bos
        assert not special
        return [token + self.token_error for token in self.model.tokenizer.encode(text)]

    def eval(self, ids):
        logits, _ = self.model.forward(ids, all_logits=True)
        self.scores = np.pad(logits.numpy() + self.logit_error, ((0, 9), (0, 0)))

    def close(self):
        self.closed = True


def test_llama_cpp_is_compared_if_it_is_installed(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_verify, "find_spec", lambda name: name)
    for error, match in {
        (0, 0): None, (0, 0.25): "logits of llama.cpp differ by", (1, 0): "returns other token ids"
    }.items():  # fmt: skip
        reader = Reader(sources["6"], error)
        module = SimpleNamespace(Llama=reader)
        monkeypatch.setitem(sys.modules, "llama_cpp", module)
        if match is None:
            done = write_gguf(sources["6"], tmp_path / "right")
            assert (done.by_llama, done.reason) == (0, "")
        else:
            with pytest.raises(wkv.CheckpointError, match=match):
                write_gguf(sources["6"], tmp_path / "wrong")
        assert reader.closed
    reader = Reader(sources["6"], (0, 0.25))  # rounded weights give other logits, which are told
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=reader))
    done = write_gguf(sources["6"], tmp_path / "rounded", dtype="q8_0")
    assert done.by_llama == pytest.approx(0.25, abs=1e-5)
    assert {file.name for file in tmp_path.iterdir()} == {"right.gguf", "rounded.gguf"}


def test_the_template_keeps_to_what_the_jinja_of_llama_cpp_knows():
    template = chat_template_text("world")
    assert not re.search(r"\| *select *[|}]", template)  # it wants the name of a test
    assert not re.search(r"\| *default\([\[{]", template)  # it has none for lists and mappings


def test_the_command_line(sources, tmp_path, capsys):
    path = tmp_path / "seven.gguf"
    arguments = ["convert", str(sources["7"]), str(path), "--to"]
    assert main([*arguments, "gguf", "--dtype", "q8_0"]) == 0
    out, _ = capsys.readouterr()
    assert f"{path}: {path.stat().st_size:,} bytes, q8_0, tokenizer rwkv-7.vocab.txt" in out
    assert "not written, because no model uses them: blocks.0.att.v0" in out
    assert "verified: its 62 tensors and 25 fields are those of the source" in out
    assert main([*arguments, "gguf"]) == 1
    assert "the file exists" in capsys.readouterr().err
    for wrong, message in {
        ("gguf", "--strategy", "cpu fp32"): "--strategy does not go with --to gguf",
        ("gguf", "--layout", "fla"): "--layout does not go with --to gguf",
        ("pth", "--dtype", "fp16"): "--dtype does not go with --to pth",
        ("hf", "--dtype", "q8_0"): "--dtype q8_0 does not go with --to hf",
        ("hf", "--overwrite"): "--overwrite does not go with --to hf",
    }.items():
        with pytest.raises(SystemExit):
            main([*arguments, *wrong])
        assert message in capsys.readouterr().err
