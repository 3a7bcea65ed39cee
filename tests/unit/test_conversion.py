"""Converting checkpoints: the same logits, ready for a strategy, whole or not at all."""

import os

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.convert.checkpoint_file import convert
from wkv.convert.quantize import quantize

IDS = [5, 250, 17, 3, 99, 99, 1, 0, 42, 7, 123, 299]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("to", ["pth", "safetensors"])
@pytest.mark.parametrize("strategy", ["cpu fp32", "cpu bf16", "cpu bf16i8 *2 -> cpu fp32"])
def test_logits_are_bit_equal_afterwards(checkpoint_paths, tmp_path, generation, to, strategy):
    source = checkpoint_paths[generation]
    done = convert(source, tmp_path / "made", to=to, strategy=strategy)
    assert done.path == tmp_path / f"made.{to}"
    assert done.largest_difference == 0
    before, after = wkv.load(source, strategy), wkv.load(done.path)
    assert str(after.strategy) == done.strategy == strategy
    expected, state = before.forward(IDS, all_logits=True)
    found, other = after.forward(IDS, all_logits=True)
    assert torch.equal(expected, found)
    assert torch.equal(state.layers[1].wkv, other.layers[1].wkv)
    assert [file.name for file in tmp_path.iterdir()] == [done.path.name]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_without_a_strategy_every_tensor_stays(checkpoint_paths, tmp_path, generation):
    source = torch.load(checkpoint_paths[generation])
    source["emb.weight"] = source["emb.weight"].half()
    save_pth(source, tmp_path / "mixed.pth")
    there = convert(tmp_path / "mixed.pth", tmp_path / "there", to="safetensors")
    back = convert(there.path, tmp_path / "back", to="pth")
    again = torch.load(back.path)
    assert set(source) - set(again) == set(there.dropped)
    assert all(name.startswith("blocks.0.att.v") for name in there.dropped)
    for name, tensor in again.items():
        assert tensor.dtype == source[name].dtype
        assert torch.equal(tensor, source[name])


def test_a_file_for_devices_that_are_not_here_is_made_on_the_cpu(checkpoint_paths, tmp_path):
    done = convert(checkpoint_paths["7"], tmp_path / "gpu.pth", strategy="cuda fp16i8 -> mps bf16")
    saved = torch.load(done.path)
    assert saved["_wkv_strategy"] == "cuda fp16i8 -> mps bf16"
    assert saved["blocks.0.att.key.weight"].dtype == torch.int8
    assert saved["blocks.2.att.key.weight"].dtype == torch.bfloat16


def test_an_int8_file_is_converted_on_as_it_is(checkpoint_paths, tmp_path):
    first = convert(checkpoint_paths["5.2"], tmp_path / "first", strategy="cpu fp32i8")
    second = convert(first.path, tmp_path / "second", to="safetensors")
    assert second.strategy == "cpu fp32i8"
    expected, found = (wkv.load(done.path).forward(IDS)[0] for done in (first, second))
    assert torch.equal(expected, found)


def test_tuned_states_and_vocabularies_come_along(tmp_path, demo):
    tuned = random_checkpoint("6")
    for layer in range(3):
        tuned[f"blocks.{layer}.att.time_state"] = torch.randn(4, 32, 32)
    save_pth(tuned, tmp_path / "tuned.pth")
    done = convert(tmp_path / "tuned.pth", tmp_path / "out", strategy="cpu fp32")
    expected = wkv.load(tmp_path / "tuned.pth", "cpu fp32").forward(IDS)[0]
    assert torch.equal(wkv.load(done.path).forward(IDS)[0], expected)
    small = convert(demo.path, tmp_path / "demo8", strategy="cpu fp32i8")
    assert wkv.load(small.path).tokenizer.encode("Alice") == demo.tokenizer.encode("Alice")


def test_what_was_there_is_never_lost(checkpoint_paths, tmp_path, monkeypatch):
    source = tmp_path / "model.pth"
    source.write_bytes(checkpoint_paths["4"].read_bytes())
    with pytest.raises(wkv.InputError, match="the checkpoint itself"):
        convert(source, source, strategy="cpu bf16", overwrite=True)
    other = tmp_path / "other.pth"
    other.write_bytes(b"precious")
    with pytest.raises(wkv.InputError, match="the file exists"):
        convert(source, other)
    with pytest.raises(wkv.InputError, match="there is no folder"):
        convert(source, tmp_path / "nowhere" / "x.pth")
    with pytest.raises(
        wkv.InputError, match="can be converted to pth or safetensors, not to 'gguf'"
    ):
        convert(source, tmp_path / "x", to="gguf")
    with pytest.raises(wkv.StrategyError, match="character 1"):
        convert(source, tmp_path / "x", strategy="gpu")
    with pytest.raises(wkv.CheckpointError, match="no such file"):
        convert(tmp_path / "missing.pth", tmp_path / "x")

    def damaged(tensors, path, **_):
        tensors["head.weight"] = tensors["head.weight"] + 1
        torch.serialization.save(tensors, path)

    monkeypatch.setattr("wkv.convert.checkpoint_file.torch.save", damaged)
    with pytest.raises(wkv.CheckpointError, match=r"1 tensors differ.*head\.weight"):
        convert(source, other, strategy="cpu fp32", overwrite=True)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wkv.convert.checkpoint_file.torch.save", full)
    with pytest.raises(wkv.CheckpointError, match=r"could not be written.*No space left"):
        convert(source, other, overwrite=True)
    assert other.read_bytes() == b"precious"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.pth", "other.pth"]


def test_the_command_prints_what_it_verified(checkpoint_paths, tmp_path, capsys):
    from wkv.cli import main

    out = tmp_path / "made.safetensors"
    arguments = ["convert", str(checkpoint_paths["6"]), str(out), "--to", "safetensors"]
    assert main([*arguments, "--strategy", "cpu fp32i8"]) == 0
    told = capsys.readouterr().out
    assert str(out) in told
    assert "made for cpu fp32i8" in told
    assert "largest difference of logits is 0 " in told
    assert main(arguments) == 1
    assert "the file exists" in capsys.readouterr().err


def test_a_file_may_stand_beside_its_source_with_one_vocabulary(tmp_path, demo):
    source = tmp_path / "m.pth"
    save_pth(dict(torch.load(convert(demo.path, tmp_path / "m").path)), source)
    done = convert(source, tmp_path / "m", to="safetensors")
    assert wkv.load(done.path).tokenizer.name == "m.vocab.txt"
    (tmp_path / "n.vocab.txt").write_text("precious")
    with pytest.raises(wkv.InputError, match=r"n\.vocab\.txt: the file exists"):
        convert(source, tmp_path / "n")


def test_a_stale_vocabulary_does_not_stay_with_another_model(checkpoint_paths, tmp_path):
    (tmp_path / "x.vocab.txt").write_text("1 'a' 1\n")
    convert(checkpoint_paths["4"], tmp_path / "x", overwrite=True)
    assert not (tmp_path / "x.vocab.txt").exists()


def test_a_shard_of_the_source_is_part_of_the_source(checkpoint_paths, tmp_path):
    from wkv.convert.huggingface.export import ExportOptions, export

    folder = export(checkpoint_paths["7"], tmp_path / "s", ExportOptions(shard_size="500KB")).path
    shard = sorted(folder.glob("model-*.safetensors"))[0]
    with pytest.raises(wkv.InputError, match="the checkpoint itself"):
        convert(folder, shard, to="safetensors", overwrite=True)
    assert wkv.load(folder).forward(IDS)


def test_names_that_look_like_shards_or_folders(checkpoint_paths, tmp_path):
    done = convert(checkpoint_paths["4"], tmp_path / "state-of-the-art", to="safetensors")
    assert wkv.load(done.path).forward(IDS)
    (tmp_path / "sub").mkdir()
    for wanted, match in (
        (f"{tmp_path}/sub/", "this is a folder"),
        (f"{tmp_path}/..", r"`\.\.` in it"),
        ("~nobody-of-this-name/x", "home directory"),
    ):
        with pytest.raises(wkv.InputError, match=match):
            convert(checkpoint_paths["4"], wanted)


def test_what_others_call_partial_is_left_alone(checkpoint_paths, tmp_path):
    (tmp_path / "y.pth.partial").write_text("precious")
    convert(checkpoint_paths["4"], tmp_path / "y")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["y.pth", "y.pth.partial"]


@pytest.mark.parametrize("to", ["pth", "safetensors"])
def test_parameters_and_shared_tensors_are_converted(tmp_path, to):
    tensors = random_checkpoint("4")
    tensors["head.weight"] = tensors["emb.weight"]
    save_pth({name: torch.nn.Parameter(t) for name, t in tensors.items()}, tmp_path / "tied.pth")
    done = convert(tmp_path / "tied.pth", tmp_path / "made", to=to)
    assert torch.equal(
        wkv.load(done.path).forward(IDS)[0], wkv.load(tmp_path / "tied.pth").forward(IDS)[0]
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_other_users_can_read_what_is_written(checkpoint_paths, tmp_path, umask):
    old = os.umask(umask)
    try:
        source = checkpoint_paths["7"]
        paths = [convert(source, tmp_path / "made", to=to).path for to in ("pth", "safetensors")]
        paths.append(quantize(source, tmp_path / "small", to="int8").path)
    finally:
        os.umask(old)
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o666 & ~umask] * 3
