"""Files of states: the mode they get, and one clear error for every damaged or foreign file."""

import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import wkv
from wkv.models.state import LayerState, _digest


@pytest.fixture(scope="module")
def model():
    return wkv.load()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    """A file of a state, its header and its tensors."""
    path = tmp_path_factory.mktemp("states") / "state.safetensors"
    model.forward([5, 6, 7])[1].save(path)
    with safe_open(path, framework="pt") as file:
        return path, file.metadata(), load_file(path)


def _write(path, header, tensors, **changes):
    """Write a file whose digest is right, whatever else may be wrong."""
    header = header | changes
    save_file(tensors, path, metadata=header | {"digest": _digest(tensors, "")})
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.to(torch.bfloat16), "bfloat16.*expected float32"),
        (lambda t: t.to(torch.float16), "float16.*expected float32"),
        (lambda t: t.to(torch.float8_e4m3fn), "float8.*expected float32"),
        (lambda t: t.double(), "float64.*expected float32"),
        (lambda t: t.to(torch.int32), "int32.*expected float32"),
        (lambda t: t > 0, "bool.*expected float32"),
        (lambda t: t.flatten(), "expected float32 "),
        (lambda t: t[..., :-1], "expected float32 "),
        (lambda t: t[:0], "expected float32 "),
        (lambda t: torch.full_like(t, float("nan")), "NaN or infinite"),
        (lambda t: t.index_fill(-1, torch.tensor([0]), float("inf")), "NaN or infinite"),
    ],
)
@pytest.mark.parametrize("name", ["layers.0.wkv", "layers.1.att_shift", "logits"])
def test_tensors_that_a_state_cannot_have(model, saved, tmp_path, name, change, match):
    _, header, tensors = saved
    wrong = tensors | {name: change(tensors[name]).contiguous()}
    with pytest.raises(wkv.StateError, match=f"{name} .*{match}"):
        wkv.State.load(_write(tmp_path / "s.safetensors", header, wrong), model)


@pytest.mark.parametrize(
    "tokens_seen",
    ["9" * 4000, "[" + "9" * 4000 + "]", "[" + "9" * 5000 + "]", "[-1]", "[true]", "[1.5]", "[NaN]",
     "3", '"3"', '{"3": 3}', "[[3]]", "null", "", "[" * 100_000, "[18446744073709551616]"],
)  # fmt: skip
def test_numbers_of_tokens_that_cannot_be(model, saved, tmp_path, tokens_seen):
    _, header, tensors = saved
    file = _write(tmp_path / "s.safetensors", header, tensors, tokens_seen=tokens_seen)
    with pytest.raises(wkv.StateError, match="tokens_seen is damaged") as error:
        wkv.State.load(file, model)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("key", ["format", "generation", "identity"])
def test_errors_do_not_repeat_a_long_header(model, saved, tmp_path, key):
    _, header, tensors = saved
    file = _write(tmp_path / "s.safetensors", header, tensors, **{key: "x" * 100_000})
    with pytest.raises(wkv.StateError) as error:
        wkv.State.load(file, model)
    assert len(str(error.value)) < 500


def test_truncated_files_and_files_with_flipped_bytes(model, saved, tmp_path):
    data = saved[0].read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    file = tmp_path / "s.safetensors"
    for size in (0, 1, 8, 100, header_end, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(wkv.StateError):
            wkv.State.load(file, model)
    for position in range(0, len(data), len(data) // 60):
        file.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        with pytest.raises(wkv.StateError):
            wkv.State.load(file, model)


@pytest.mark.parametrize("name", ["emptiness", "folder", "model"])
def test_other_files_are_refused(model, tmp_path, name):
    if name == "folder":
        (tmp_path / name).mkdir()
    elif name == "model":
        save_file({"emb.weight": torch.zeros(3)}, tmp_path / name)
    with pytest.raises(wkv.StateError):
        wkv.State.load(tmp_path / name, model)


def test_a_state_keeps_its_values_and_never_loses_the_file_it_replaces(model, tmp_path):
    path = tmp_path / "s.safetensors"
    _, state = model.forward([1, 2, 3])
    state.save(path)
    again = wkv.State.load(path, model)
    assert all(map(torch.equal, _tensors(state), _tensors(again)))
    before = path.read_bytes()
    broken = replace(state, layers=(LayerState(*[torch.zeros(1, device="meta")] * 3),))
    with pytest.raises(Exception, match="meta"):
        broken.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def _tensors(state):
    return [
        tensor for layer in state.layers for tensor in (layer.att_shift, layer.wkv, layer.ffn_shift)
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_the_mode_of_a_state_follows_the_umask(model, tmp_path, umask):
    old = os.umask(umask)
    try:
        model.forward([1])[1].save(tmp_path / "s.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "s.safetensors").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_path_that_cannot_be_written(model, tmp_path):
    with pytest.raises(wkv.StateError, match="could not be written"):
        model.forward([1])[1].save(tmp_path / "missing" / "s.safetensors")


def test_the_digest_is_that_of_the_values(saved):
    """Files of earlier versions contain digests, so the bytes that are hashed must not change."""
    _, header, tensors = saved
    assert _digest(tensors, "") == header["digest"]
    assert json.loads(header["tokens_seen"]) == [3]
