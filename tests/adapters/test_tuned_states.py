"""Tuned states of every program start a model as that program started it."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.oracles import oracle
from wkv.adapters.tuned_state import is_tuned_state
from wkv.adapters.write_state import state_tensors, write_tuned_state
from wkv.cli import main
from wkv.evaluate.lambada import begin_ids
from wkv.inference.prefill import first_ids, prompt_ids

IDS = [5, 250, 17, 3, 99]
WITH_HEADS = ("5.0", "5.1", "5.2", "6", "7", "7a")


def matrices(seed=0, layers=3, heads=4, size=32):
    """Give matrices without symmetry, so that swapped axes show."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(layers, heads, size, size, generator=generator)


def named(tuned, prefix=""):
    return {f"{prefix}blocks.{l}.att.time_state": one.clone() for l, one in enumerate(tuned)}


def started(model, tuned):
    """Give the empty state of a model with other matrices."""
    state = model.new_state()
    for layer, one in zip(state.layers, tuned, strict=True):
        layer.wkv.copy_(one)
    return state


def oracle_state(tuned):
    """Give the state of an oracle that has only these matrices."""
    zero = np.zeros(128)
    return [{"att_shift": zero, "wkv": one.double().numpy(), "ffn_shift": zero} for one in tuned]


def peft(path, tuned):
    torch.save(named(tuned.bfloat16()), path)


def wrapped(path, tuned):
    torch.save(named(tuned, "base_model.model."), path)


def fullstate(path, tuned):
    shifts = {f"blocks.{l}.att.ts_state": torch.zeros(128) for l in range(3)}
    torch.save(named(tuned) | shifts, path)


def ai00(path, tuned):
    save_file(named(tuned.transpose(-1, -2).half().contiguous()), path)


def plain(path, tuned):
    save_file(named(tuned), path)


def metal(path, tuned):
    zero = torch.zeros(3, 1, 1, 128)
    save_file({"wkv": tuned[:, None].clone(), "tmix_shift": zero, "cmix_shift": zero.clone()}, path)


WRITERS = {
    "rwkv-0.pth": peft, "wrapped.pth": wrapped, "fullstate.pth": fullstate, "s.st": ai00,
    "s.state": ai00, "s.safetensors": plain, "metal.safetensors": metal,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_states_of_every_program_have_our_axes(models, tmp_path, name):
    tuned = matrices().bfloat16().float()
    WRITERS[name](tmp_path / name, tuned)
    assert is_tuned_state(tmp_path / name)
    state = wkv.State.load(tmp_path / name, models["7"])
    assert state.tokens_seen == (0,)
    assert state.logits is None
    for layer, expected in zip(state.layers, tuned, strict=True):
        assert torch.allclose(layer.wkv[0], expected, atol=1e-3)
        assert not torch.cat([layer.att_shift, layer.ffn_shift]).any()
    logits, _ = models["7"].forward(IDS, state)
    expected, _ = models["7"].forward(IDS, started(models["7"], tuned))
    assert torch.allclose(logits, expected, atol=1e-2)


@pytest.mark.parametrize("generation", WITH_HEADS)
def test_a_tuned_state_starts_the_float64_model(models, tmp_path, generation):
    tuned = matrices(3)
    torch.save(named(tuned), tmp_path / "s.pth")
    state = wkv.State.load(tmp_path / "s.pth", models[generation])
    found, _ = models[generation].forward(IDS, state, all_logits=True)
    tensors = {n: t.double().numpy() for n, t in random_checkpoint(generation).items()}
    forward = oracle(generation)
    expected, _ = forward(tensors, IDS, oracle_state(tuned))
    assert np.abs(found.numpy() - expected).max() < 1e-4
    transposed, _ = forward(tensors, IDS, oracle_state(tuned.transpose(-1, -2)))
    assert np.abs(found.numpy() - transposed).max() > 1e-2


@pytest.mark.parametrize("to", ["pth-state", "ai00-state"])
@pytest.mark.parametrize("generation", ["5.2", "7"])
def test_states_are_written_for_other_programs_and_read_again(models, tmp_path, generation, to):
    model, tuned = models[generation], matrices(1)
    path = write_tuned_state(state_tensors(started(model, tuned)), tmp_path / "tuned", to)
    stored = torch.load(path) if to == "pth-state" else load_file(path)
    assert list(stored) == [f"blocks.{l}.att.time_state" for l in range(3)]
    first = stored["blocks.0.att.time_state"].float()
    expected = tuned[0] if to == "pth-state" else tuned[0].transpose(1, 2)
    assert torch.allclose(first, expected, atol=1e-3)
    again = wkv.State.load(path, model)
    assert torch.allclose(again.layers[2].wkv[0], tuned[2], atol=1e-3)
    again.save(tmp_path / "ours.safetensors")
    ours = wkv.State.load(tmp_path / "ours.safetensors", model)
    assert torch.equal(ours.layers[1].wkv, again.layers[1].wkv)


def test_shifts_of_rwkv_metal_are_used(models, tmp_path):
    model = models["7"]
    state = model.forward(IDS)[1]
    parts = {
        "wkv": [layer.wkv for layer in state.layers],
        "tmix_shift": [layer.att_shift[:, None] for layer in state.layers],
        "cmix_shift": [layer.ffn_shift[:, None] for layer in state.layers],
    }
    path = tmp_path / "folded.safetensors"
    save_file({name: torch.stack(tensors).contiguous() for name, tensors in parts.items()}, path)
    found, _ = model.forward([7], wkv.State.load(path, model))
    assert torch.equal(found, model.forward([7], state)[0])
    with pytest.raises(wkv.StateError, match="tuned state of RWKV-7"):
        wkv.State.load(path, models["6"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (named(matrices(layers=4)), r"4 layers of \(4, 32, 32\).*needs 3 layers"),
        (named(matrices(heads=2, size=64)), r"\(2, 64, 64\).*needs 3 layers of \(4, 32, 32\)"),
        (named(matrices()) | {"blocks.0.ln1.weight": torch.ones(128)}, "blocks.0.ln1.weight does"),
        (named(matrices()) | {"blocks.1.att.ts_state": torch.ones(128)}, "tuned token shift"),
        (named(matrices() / 0), "blocks.0.att.time_state.*NaN"),
        (named(matrices().int()), "int32"),
    ],
)
def test_states_that_do_not_fit_are_explained(models, tmp_path, content, match):
    torch.save(content, tmp_path / "s.pth")
    with pytest.raises(wkv.StateError, match=match):
        wkv.State.load(tmp_path / "s.pth", models["7"])


def test_rwkv_4_has_no_tuned_state(models, tmp_path):
    torch.save(named(matrices()), tmp_path / "s.pth")
    with pytest.raises(wkv.StateError, match="RWKV-4 has no heads"):
        wkv.State.load(tmp_path / "s.pth", models["4"])


def test_ambiguous_axes_are_refused(models, tmp_path):
    ai00(tmp_path / "s.safetensors", matrices())
    with pytest.raises(wkv.StateError, match=r"rename the file.*\.pth"):
        wkv.State.load(tmp_path / "s.safetensors", models["7"])


def test_what_other_programs_cannot_read_is_not_written(models, tmp_path):
    seen = models["7"].forward(IDS)[1]
    with pytest.raises(wkv.StateError, match="token shifts"):
        write_tuned_state(state_tensors(seen), tmp_path / "s.pth")
    with pytest.raises(wkv.StateError, match="generation 5 to 7"):
        write_tuned_state(state_tensors(models["4"].new_state()), tmp_path / "s.pth")
    large = started(models["7"], 1e6 * matrices())
    with pytest.raises(wkv.StateError, match="half precision"):
        write_tuned_state(state_tensors(large), tmp_path / "s.st", "ai00-state")
    assert list(tmp_path.iterdir()) == []


def test_generate_begins_from_a_tuned_state(byte_model, tmp_path, capfd):
    torch.save(named(3 * matrices(layers=2, heads=2)), tmp_path / "s.pth")
    options = ["--prompt", "Hi", "--max-tokens", "8", "--temperature", "0", "--json"]
    assert (
        main(["generate", str(byte_model.path), "--state", str(tmp_path / "s.pth"), *options]) == 0
    )
    found = json.loads(capfd.readouterr().out)["token_ids"]
    state = wkv.State.load(tmp_path / "s.pth", byte_model)
    sampling = wkv.Sampling(temperature=0)
    settings = {"sampling": sampling, "max_tokens": 8}
    assert found == wkv.generate(byte_model, "Hi", state=state, **settings).token_ids
    assert found != wkv.generate(byte_model, "Hi", **settings).token_ids


@pytest.mark.parametrize(("note", "first"), [("0", (0,)), ("", ()), ("7 5", (7, 5)), (None, None)])
def test_a_text_begins_after_a_state_as_in_its_training(byte_model, tmp_path, note, first):
    state = started(byte_model, matrices(layers=2, heads=2))
    notes = {} if note is None else {"begins_with": note}
    state.save(tmp_path / "s.safetensors", {"tuned": "yes", **notes})
    read = wkv.State.load(tmp_path / "s.safetensors", byte_model)
    assert read.begins_with == first
    read.save(tmp_path / "again.safetensors")  # the note is part of the state
    assert wkv.State.load(tmp_path / "again.safetensors", byte_model).begins_with == first
    ids = [*(first or ()), *b"Hi"]
    assert prompt_ids(byte_model, "Hi", read) == ids
    assert prompt_ids(byte_model, ids, read) == ids
    after = byte_model.forward(ids, read)[1]
    assert prompt_ids(byte_model, "Hi", after) == list(b"Hi")
    model = byte_model.starting_from(read)
    assert prompt_ids(model, "Hi", None) == ids
    assert torch.equal(model.forward(ids)[0], byte_model.forward(ids, read)[0])
    assert begin_ids(model, "auto") == list(first or ())


def test_world_models_begin_with_0_and_states_of_other_programs_do_not(tmp_path):
    path = tmp_path / "world.pth"
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=65536), path)
    model = wkv.load(path, "cpu fp32")
    torch.save(named(matrices(layers=2, heads=2)), tmp_path / "s.pth")
    state = wkv.State.load(tmp_path / "s.pth", model)
    assert first_ids(model) == first_ids(model, model.new_state()) == (0,)
    assert first_ids(model, state) == first_ids(model.starting_from(state)) == ()


def test_a_damaged_note_is_explained(byte_model, tmp_path):
    byte_model.new_state().save(tmp_path / "s.safetensors", {"begins_with": "zero"})
    with pytest.raises(wkv.StateError, match="begins_with is damaged"):
        wkv.State.load(tmp_path / "s.safetensors", byte_model)


def test_lambada_is_measured_from_a_tuned_state(byte_model, tmp_path, capfd):
    torch.save(named(3 * matrices(layers=2, heads=2)), tmp_path / "s.pth")
    (tmp_path / "d.jsonl").write_text('{"text": "A cat sat on a mat"}\n{"text": "So it is"}\n')
    command = ["eval", "lambada", str(byte_model.path), "--data", str(tmp_path / "d.jsonl")]
    command += ["--strategy", "cpu fp32", "--json"]
    found = []
    for options in ([], ["--state", str(tmp_path / "s.pth")]):
        assert main([*command, *options]) == 0
        found.append(json.loads(capfd.readouterr().out)["models"][0])
    assert found[0]["ppl"] != found[1]["ppl"]
    assert "state" not in found[0]
    assert len(found[1]["state"]) == 64
    state = wkv.State.load(tmp_path / "s.pth", byte_model)
    total = 0.0
    for context, target in ((b"A cat sat on a", b" mat"), (b"So it", b" is")):
        logits, _ = byte_model.forward(list(context + target), state, all_logits=True)
        logs = logits.double().log_softmax(-1)
        total += sum(float(logs[len(context) - 1 + i, c]) for i, c in enumerate(target))
    assert found[1]["ppl"] == pytest.approx(np.exp(-total / 2), rel=1e-4)
