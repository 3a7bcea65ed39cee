"""Quantized files: the logits of packing at each load, mapped, like any checkpoint to all else."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from wkv.checkpoint.packing import unpack
from wkv.convert.checkpoint_file import convert
from wkv.convert.quantize import quantize
from wkv.inference.describe import describe
from wkv.native import library

IDS = [5, 250, 17, 3, 99, 99, 1, 0, 42, 7, 123, 299]
NOTE = "_wkv_packed"


@pytest.fixture(scope="module")
def quantized(checkpoint_paths, tmp_path_factory):
    """Give a function for the quantized file of a generation, made once."""
    folder, made = tmp_path_factory.mktemp("quantized"), {}

    def file(generation, to="int8"):
        path = folder / f"{generation}-{to}.safetensors"
        if path not in made:
            made[path] = quantize(checkpoint_paths[generation], path, to=to)
        return made[path].path

    return file


@pytest.mark.parametrize("to", ["int8", "int4"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_file_gives_the_logits_of_packing_at_each_load(
    checkpoint_paths, quantized, generation, to
):
    path = quantized(generation, to)
    expected, state = wkv.load(checkpoint_paths[generation], f"cpu {to}").forward(
        IDS, all_logits=True
    )
    model = wkv.load(path)
    assert str(model.strategy) == f"cpu {to}"
    found, other = model.forward(IDS, all_logits=True)
    assert torch.equal(expected, found)
    assert torch.equal(state.layers[1].wkv, other.layers[1].wkv)
    assert [file.name for file in path.parent.glob(".*")] == []


@pytest.mark.parametrize("generation", GENERATIONS)
def test_without_the_engine_the_weights_are_the_same(
    checkpoint_paths, quantized, generation, monkeypatch
):
    monkeypatch.setattr(library, "missing_reason", lambda: "it was not built")
    expected = wkv.load(checkpoint_paths[generation], "cpu int4").forward(IDS)[0]
    model = wkv.load(quantized(generation, "int4"))
    assert model.engine == "torch"
    assert torch.equal(model.forward(IDS)[0], expected)


@pytest.mark.parametrize("generation", ["4", "6", "7", "7a"])
def test_to_all_else_it_is_a_checkpoint(quantized, checkpoint_paths, tmp_path, generation):
    path, source = quantized(generation), torch.load(checkpoint_paths[generation])
    description = describe(path)
    assert description.checkpoint.layout == "packed"
    assert description.checkpoint.strategy == "cpu int8"
    assert description.config == describe(checkpoint_paths[generation]).config
    for name, tensor in description.checkpoint.items():
        assert tensor.shape == source[name].shape == description.checkpoint.shapes[name]
        assert tensor.dtype == description.checkpoint.dtypes[name] == torch.float32
        assert (tensor - source[name]).abs().max() <= 0.005 * source[name].abs().max()
    model = wkv.load(path, "cpu fp32")
    back = convert(path, tmp_path / "back", to="pth")
    assert back.strategy is None
    again = wkv.load(back.path, "cpu fp32")
    assert torch.equal(again.forward(IDS)[0], model.forward(IDS)[0])
    # As it is when it is packed at each load; so states and presets of the model go on.
    assert model.identity == wkv.load(checkpoint_paths[generation], "cpu int8").identity
    assert again.identity != model.identity


def test_matrices_begin_where_the_engine_reads_well(quantized):
    path = quantized("7")
    packed = describe(path).checkpoint.read_packed
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    note = json.loads(header.pop("__metadata__")[NOTE])
    assert (8 + size) % 64 == 0
    for name in note["matrices"]:
        assert header[name]["data_offsets"][0] % 64 == 0
        assert packed(name).data.data_ptr() % 64 == 0
    assert sorted(header) == sorted(safe_open(path, framework="pt").keys())


def test_factors_of_odd_ranks_and_stacks_come_back(checkpoint_paths, quantized):
    checkpoint, source = describe(quantized("6")).checkpoint, torch.load(checkpoint_paths["6"])
    name = "blocks.1.att.time_maa_w2"
    assert checkpoint.shapes[name] == tuple(source[name].shape)
    for number in range(5):
        part = unpack(checkpoint.read_packed(f"{name}.{number}")).t()
        assert torch.equal(checkpoint[name][number], part)


def test_states_and_conversations_go_on(quantized, tmp_path):
    model = wkv.load(quantized("7"))
    _, state = model.forward(IDS[:5])
    state.save(tmp_path / "state.safetensors")
    again = wkv.load(quantized("7"))
    loaded = wkv.State.load(tmp_path / "state.safetensors", again)
    assert torch.equal(again.forward(IDS[5:], loaded)[0], model.forward(IDS[5:], state)[0])


def test_the_vocabulary_and_tuned_states_come_along(demo, tmp_path):
    done = quantize(demo.path, tmp_path / "demo8", to="int8")
    model = wkv.load(done.path)
    assert model.tokenizer.encode("Alice") == demo.tokenizer.encode("Alice")
    greedy = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
    prompt = "User: What is 27 + 48?\n\nAssistant:"
    assert wkv.generate(model, prompt, sampling=greedy, stop="\n\n").text == " 27 + 48 = 75"
    tuned = random_checkpoint("6")
    for layer in range(3):
        tuned[f"blocks.{layer}.att.time_state"] = torch.randn(4, 32, 32)
    save_pth(tuned, tmp_path / "tuned.pth")
    done = quantize(tmp_path / "tuned.pth", tmp_path / "tuned8", to="int8")
    expected = wkv.load(tmp_path / "tuned.pth", "cpu int8").forward(IDS)[0]
    assert torch.equal(wkv.load(done.path).forward(IDS)[0], expected)


def test_a_folded_file_of_chatrwkv_can_be_quantized(checkpoint_paths, tmp_path):
    folded = convert(checkpoint_paths["4"], tmp_path / "plain", strategy="cpu fp32").path
    done = quantize(folded, tmp_path / "eight", to="int8")
    expected = wkv.load(checkpoint_paths["4"], "cpu int8").forward(IDS)[0]
    assert torch.equal(wkv.load(done.path).forward(IDS)[0], expected)


def test_what_is_refused(checkpoint_paths, quantized, tmp_path):
    source = tmp_path / "model.safetensors"
    source.write_bytes(
        convert(checkpoint_paths["4"], tmp_path / "4", to="safetensors").path.read_bytes()
    )
    (tmp_path / "4.safetensors").unlink()
    before = source.read_bytes()
    with pytest.raises(wkv.InputError, match="the checkpoint itself"):
        quantize(source, source, to="int8", overwrite=True)
    with pytest.raises(wkv.InputError, match="can be quantized to int8 or int4, not to 'int3'"):
        quantize(source, tmp_path / "x", to="int3")
    (tmp_path / "there.safetensors").write_bytes(b"precious")
    with pytest.raises(wkv.InputError, match="the file exists"):
        quantize(source, tmp_path / "there", to="int8")
    with pytest.raises(wkv.CheckpointError, match="quantized already"):
        quantize(quantized("4"), tmp_path / "x", to="int4")
    small = convert(checkpoint_paths["4"], tmp_path / "i8", strategy="cpu fp32i8").path
    with pytest.raises(wkv.CheckpointError, match="ChatRWKV's int8"):
        quantize(small, tmp_path / "x", to="int8")
    small.unlink()
    with pytest.raises(wkv.StrategyError, match="wkv quantize"):
        convert(quantized("4"), tmp_path / "x", strategy="cpu int8")
    assert source.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "model.safetensors",
        "there.safetensors",
    ]


def test_nothing_is_saved_unless_it_is_verified_and_accepted(
    checkpoint_paths, tmp_path, monkeypatch
):
    seen = []

    def refuse(before, after, file):
        seen.append((str(before.strategy), str(after.strategy), file.stat().st_size))
        return False

    done = quantize(checkpoint_paths["7"], tmp_path / "x", to="int4", accept=refuse)
    assert not done.kept
    assert seen == [("cpu fp32", "cpu int4", done.n_bytes)]
    write = wkv.convert.quantize.write_safetensors

    def damaged(path, tensors, notes):
        write(path, {n: t + 1 if n == "head.weight" else t for n, t in tensors.items()}, notes)

    monkeypatch.setattr("wkv.convert.quantize.write_safetensors", damaged)
    with pytest.raises(wkv.CheckpointError, match=r"1 tensors differ.*head\.weight"):
        quantize(checkpoint_paths["7"], tmp_path / "x", to="int8")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wkv.convert.quantize.write_safetensors", full)
    with pytest.raises(wkv.CheckpointError, match="could not be written"):
        quantize(checkpoint_paths["7"], tmp_path / "x", to="int8")
    assert list(tmp_path.iterdir()) == []


def _told(note, change):
    told = json.loads(note)
    change(told["matrices"])
    return json.dumps(told)


HEAD, PART = "head.weight", "blocks.0.att.time_maa_w2.3"


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        (lambda note: "{", "cannot be read"),
        (lambda note: "[" * 100_000, "cannot be read"),
        (lambda note: "[]", "cannot be read"),
        (lambda note: "9" * 5000, "cannot be read"),
        (lambda note: '{"version": 1, "identity": "", "matrices": []}', "cannot be read"),
        (lambda note: note.replace('"identity"', '"entity"'), "cannot be read"),
        (lambda note: note.replace('"version": 1', '"version": 2'), "packed in version 2"),
        (lambda note: note.replace('"int8"', '"int9"', 1), "expected one of int8, int4"),
        (lambda note: note.replace('"blocks"', '"rows"', 1), "expected one of int8, int4"),
        (lambda note: note.replace('"blocks"', "[]", 1), "expected one of int8, int4"),
        (lambda note: _told(note, lambda m: m[HEAD].update(inputs=10**30)), "expected one of"),
        (lambda note: _told(note, lambda m: m[HEAD].update(inputs=-1)), "expected one of"),
        (lambda note: _told(note, lambda m: m[HEAD].update(inputs=True)), "expected one of"),
        (lambda note: _told(note, lambda m: m.update({HEAD: None})), "expected one of"),
        (lambda note: _told(note, lambda m: m[HEAD].update(inputs=2**31 - 1)), "bytes; found"),
        (lambda note: _told(note, lambda m: m[HEAD].update(format="int4")), "bytes; found"),
        (lambda note: _told(note, lambda m: m.update(more=m[HEAD])), "found no tensor"),
        (lambda note: _told(note, lambda m: m.update({"emb.weight": m[HEAD]})), "bytes; found"),
        (lambda note: _told(note, lambda m: m.pop(HEAD)), "misshapen|not floats"),
        (lambda note: _told(note, lambda m: m.pop(PART)), "do not belong|unexpected"),
        (lambda note: _told(note, lambda m: m[HEAD].update(inputs=120)), "misshapen"),
    ],
)
def test_a_file_that_lies_about_itself_is_one_clear_error(quantized, tmp_path, lie, match):
    with safe_open(quantized("6"), framework="pt") as file:
        notes = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    notes[NOTE] = lie(notes[NOTE])
    save_file(tensors, tmp_path / "lie.safetensors", notes)
    with pytest.raises(wkv.CheckpointError, match=match) as told:
        wkv.load(tmp_path / "lie.safetensors")
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 600


def test_a_truncated_file_is_one_clear_error(quantized, tmp_path):
    whole = quantized("7").read_bytes()
    for size in (9, 1000, len(whole) - 1):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        with pytest.raises(wkv.CheckpointError, match="truncated or damaged"):
            wkv.load(tmp_path / "cut.safetensors")


MEASURE = """
import sys, time, torch, wkv
def anonymous():
    for line in open('/proc/self/status'):
        if line.startswith('RssAnon'):
            return 1024 * int(line.split()[1])
wkv.load(strategy='cpu int8').forward([1])
before, begun = anonymous(), time.perf_counter()
model = wkv.load(sys.argv[1])
seconds, loaded = time.perf_counter() - begun, anonymous() - before
model.forward([1])
print(loaded, anonymous() - before, seconds, model.weight_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(library.missing_reason() is not None, reason="the engine is not here")
def test_loading_maps_the_file_and_packs_nothing(tmp_path):
    sizes = {"n_layer": 4, "n_embd": 512, "head_size": 64, "vocab_size": 16000}
    save_pth(random_checkpoint("7", **sizes), tmp_path / "big.pth")
    path = quantize(tmp_path / "big.pth", tmp_path / "big8", to="int8").path
    command = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    loaded, used, _, weights = map(float, done.stdout.split())
    assert weights > 20e6
    assert max(loaded, used) < weights / 4
