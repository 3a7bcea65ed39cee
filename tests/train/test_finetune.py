"""`wkv finetune`: methods, proof, files, resume, processes, and what is refused."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.cli import main
from wkv.convert.merge import merge
from wkv.errors import CheckpointError, StateError, TrainingError
from wkv.train.run_folder import RunFolder
from wkv.train.tuning.options import TuningOptions

WORDS = ("blue", "cold", "dog", "east", "fish", "gold", "hat", "ink", "jam", "king", "lamp", "moon")
QUICK = {"steps": 3, "rows": 4, "threads": 1, "samples": 0, "eval_every": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "chat.jsonl"
    lines = [
        {"prompt": f"Say {word} number {number}.", "completion": f"AYE {word.upper()}!"}
        for word in WORDS
        for number in range(3)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small random model in bf16, with the vocabulary of the built-in one."""
    return random_model(tmp_path_factory.mktemp("small"), "7", dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def fewer_plots(request, monkeypatch):
    """Plot only the runs of the built-in model: a plot takes as long as a short run."""
    if "small" in request.fixturenames:
        monkeypatch.setattr(RunFolder, "plot", lambda folder: None)


def random_model(folder, generation, dtype=torch.float32):
    path = folder / f"{generation}.pth"
    sizes = {"n_layer": 2, "n_embd": 64, "head_size": 32, "vocab_size": 2048}
    tensors = random_checkpoint(generation, **sizes)
    save_pth({name: tensor.to(dtype) for name, tensor in tensors.items()}, path)
    shutil.copy(wkv.demo.WEIGHTS.with_suffix(".vocab.txt"), path.with_suffix(".vocab.txt"))
    return path


def tensors_of(path):
    return torch.load(path / "checkpoint.pt", weights_only=True)["model"]


def tune(base, data, out, method="lora", **options):
    return wkv.finetune(base, data, out, method, **(QUICK | options))


def test_lora_learns_and_is_what_every_engine_loads(data, tmp_path):
    lines = []
    done = tune(
        None, data, tmp_path / "run", steps=12, notify=lines.append, base_dtype="fp32", samples=1
    )
    assert done.path == tmp_path / "run" / "adapter"
    assert done.after.held_out.loss < 0.5 * done.before.held_out.loss
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "adapter", "report.json", "samples.md", "log.jsonl", "loss.png", "checkpoint.pt"
    }  # fmt: skip
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["after"]["held_out"]["loss"] == done.after.held_out.loss
    assert abs(report["held_out_before_saving"] - done.after.held_out.loss) < 1e-3
    assert any(line.startswith("example «User: Say ") for line in lines)
    assert any("read back from disk: the same" in line for line in lines)
    assert "# Answers" in (tmp_path / "run" / "samples.md").read_text()
    merged = merge(wkv.demo.WEIGHTS, done.path, tmp_path / "merged.safetensors")
    assert merged.by_merging < 1e-4
    ids = wkv.load().tokenizer.encode("User: Say moon number 1.\n\nAssistant: AYE")
    likely = [wkv.load(adapter=one).forward(ids[:-1])[0].log_softmax(0)[ids[-1]]
              for one in (None, done.path)]  # fmt: skip
    assert likely[1] > likely[0] + 1


@pytest.mark.parametrize("method", ["state", "full", "miss", "dora"])
def test_every_method_learns_is_saved_and_measured_again(small, data, tmp_path, method):
    rate = {"state": 0.3, "full": 1e-3}.get(method, 3e-3)
    done = tune(
        small, data, tmp_path / "run", method, steps=8, learning_rate=rate, base_dtype="fp32"
    )
    assert done.after.held_out.loss < done.before.held_out.loss - 0.1
    before = done.report["held_out_before_saving"]
    assert done.after.held_out.loss == pytest.approx(before, abs=0.05 if method == "full" else 1e-3)
    if method == "state":
        state = wkv.State.load(done.path, wkv.load(small))
        assert state.tokens_seen == (0,)
        assert set(done.after.by_turns) <= {0, 1, 2, 4, 8}
    elif method == "full":
        assert wkv.load(done.path).tokenizer.vocab_size == 2048
    else:
        assert wkv.load(small, adapter=done.path).identity != wkv.load(small).identity


def test_the_rate_of_a_state_is_tried(small, data, tmp_path):
    done = tune(small, data, tmp_path / "run", "state", steps=4)
    assert set(done.report["rates_tried"]) == {"0.001", "0.01", "0.1", "1"}
    tried = {float(rate): loss for rate, loss in done.report["rates_tried"].items()}
    assert done.report["settings"]["learning_rate"] == min(tried, key=tried.get)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_frozen_layers_stay_as_they_are(small, data, tmp_path, method):
    done = tune(small, data, tmp_path / "run", method, steps=4, freeze_layers=1,
                learning_rate=0.01)  # fmt: skip
    assert done.after.held_out.loss < done.before.held_out.loss
    names = set(tensors_of(tmp_path / "run"))
    assert names
    assert not any(name.startswith(("blocks.0.", "emb.")) for name in names)
    if method == "full":
        base, found = torch.load(small, weights_only=True), load_file(done.path)
        changed = {name for name in base if not torch.equal(base[name], found[name])}
        assert changed <= names
        assert {"head.weight", "blocks.1.ffn.key.weight"} <= changed
    else:
        adapted = wkv.load(small, adapter=done.path)
        assert adapted.identity != wkv.load(small).identity


@pytest.mark.parametrize(
    ("method", "base_dtype"), [("lora", "int4"), ("state", "int4"), ("dora", "int8")]
)
def test_adapters_and_states_of_packed_bases(small, data, tmp_path, method, base_dtype):
    rate = 0.3 if method == "state" else 3e-3
    done = tune(
        small, data, tmp_path / "run", method, steps=6, base_dtype=base_dtype, learning_rate=rate
    )
    assert done.report["held_out_before_saving"] < done.before.held_out.loss
    assert done.after.held_out.loss < done.before.held_out.loss
    with pytest.raises(TrainingError, match="frozen weights"):
        tune(small, data, tmp_path / "full", "full", base_dtype=base_dtype)


@pytest.mark.parametrize("method", ["state", "lora"])
def test_stopped_and_resumed_equals_uninterrupted(small, data, tmp_path, method):
    options = {"steps": 6, "learning_rate": 0.01, "turns": 2, "samples": 1}
    whole = tune(small, data, tmp_path / "whole", method, **options)
    stopped = tune(
        small, data, tmp_path / "parts", method, **options,
        report=lambda entry, _: entry["step"] == 3 and signal.raise_signal(signal.SIGINT),
    )  # fmt: skip
    assert not stopped.is_done
    assert not (tmp_path / "parts" / "report.json").exists()
    resumed = wkv.finetune(small, data, tmp_path / "parts", method, resume=True, threads=1)
    assert resumed.after == whole.after
    assert resumed.before == whole.before
    expected, found = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    name = {"state": "state.safetensors"}.get(method, "adapter/adapter_model.safetensors")
    expected, found = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_torchrun_tunes_as_one(small, data, tmp_path):
    arguments = ["finetune", str(small), str(data), str(tmp_path / "run"), "--steps", "2",
                 "--rows", "4", "--learning-rate", "0.01", "--base-dtype", "fp32", "--threads", "1",
                 "--samples", "0", "--eval-every", "1"]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
              "2", "-m", "wkv", *arguments]  # fmt: skip
    done = subprocess.run(launch, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    tune(small, data, tmp_path / "one", steps=2, learning_rate=0.01, base_dtype="fp32")
    expected = tensors_of(tmp_path / "one")
    for name, value in tensors_of(tmp_path / "run").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_mixed_data_and_prose(small, data, tmp_path):
    prose = tmp_path / "prose.txt"
    prose.write_text(" ".join(f"{word} {number}." for number in range(60) for word in WORDS))
    done = tune(small, data, tmp_path / "run", mix=f"{prose}:0.5")
    assert done.before.mixed.exact is None
    entries = [json.loads(one) for one in (tmp_path / "run" / "log.jsonl").read_text().split("\n")
               if one]  # fmt: skip
    assert set(entries[0]["loss"]) == {"training", "prose", "held-out"}
    done = tune(small, prose, tmp_path / "prose", context=32)
    assert done.after.held_out.exact is None


def test_a_run_that_becomes_worse_stops_and_keeps_the_best(data, tmp_path):
    lines = []
    done = tune(None, data, tmp_path / "run", steps=30, learning_rate=3.0, warmup=1,
                notify=lines.append)  # fmt: skip
    assert any("give a lower --learning-rate" in line for line in lines)
    assert done.report["steps"] < 30
    assert done.is_done
    assert done.path.exists()


def test_begin_with_an_earlier_result(small, data, tmp_path):
    for method, rate in (("lora", 3e-3), ("state", 0.3)):
        first = tune(small, data, tmp_path / method, method, learning_rate=rate, base_dtype="fp32")
        more = tune(small, data, tmp_path / f"{method}2", method, learning_rate=rate, steps=1,
                    from_path=str(first.path), base_dtype="fp32")  # fmt: skip
        assert more.before.held_out.loss == pytest.approx(first.after.held_out.loss, abs=1e-3)
    with pytest.raises(TrainingError, match="--from has the scale"):
        tune(small, data, tmp_path / "x", alpha=5.0, from_path=str(tmp_path / "lora" / "adapter"))
    with pytest.raises((TrainingError, CheckpointError)):
        tune(small, data, tmp_path / "x", "miss", from_path=str(tmp_path / "lora" / "adapter"))


def test_other_generations_and_wrong_bases(small, data, tmp_path):
    base = {generation: random_model(tmp_path, generation) for generation in "46"}
    six = wkv.finetune(base["6"], data, tmp_path / "six", "state", **QUICK,
                       learning_rate=0.1)  # fmt: skip
    assert six.after.held_out.loss < six.before.held_out.loss
    with pytest.raises(TrainingError, match="RWKV-4 has no matrix state"):
        wkv.finetune(base["4"], data, tmp_path / "four", "state", **QUICK)
    four = wkv.finetune(base["4"], data, tmp_path / "four", **QUICK)
    assert four.path.exists()
    with pytest.raises(StateError, match="another model"):
        wkv.State.load(six.path, wkv.load())
    with pytest.raises(CheckpointError, match="was tuned for the model"):
        wkv.load(adapter=four.path)
    with pytest.raises(TrainingError, match=r"was trained with .*--base"):
        wkv.finetune(small, data, tmp_path / "six", "state", resume=True, steps=5)


def test_dry_run_writes_nothing(data, tmp_path, capfd):
    out = tmp_path / "run"
    assert main(["finetune", "demo", str(data), str(out), "--dry-run", "--threads", "1"]) == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    for word in ("model   RWKV-7", "data    chat.jsonl: completion", "example", "memory"):
        assert word in printed.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "pissa"}, "--method is pissa; give one of lora"),
        ({"rank": 0}, "--rank is 0; give a whole number"),
        ({"hold_out": "150%"}, "--hold-out is 150%"),
        ({"mix": "old.jsonl"}, "--mix is"),
        ({"mask": "2"}, "--mask is 2"),
        ({"steps": 1, "minutes": 1.0}, "exclude each other"),
        ({"rows": 1, "tokens_per_step": 9}, "exclude each other"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan"),
        ({"freeze_layers": -1}, "--freeze-layers is -1"),
        ({"freeze_layers": 1, "method": "state"}, "--freeze-layers is for adapters"),
        ({"schedule": "steep"}, "--schedule is steep"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(TrainingError, match=message):
        TuningOptions(**arguments)


def test_what_does_not_fit_is_refused_and_leaves_nothing(small, data, tmp_path):
    for options, message in (
        ({"targets": "att.gate"}, "--targets has 'att.gate'"),
        ({"rank": 4096}, "--rank is 4096"),
        ({"freeze_layers": 2}, "the model has 2 layers"),
        ({"colour": 1}, "colour is not an option"),
    ):
        with pytest.raises(TrainingError, match=message):
            tune(small, data, tmp_path / "run", **options)
        assert not list(tmp_path.glob("run/*"))
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "report.json").write_text("precious")
    with pytest.raises(TrainingError, match="would overwrite"):
        tune(small, data, tmp_path / "run")


def test_a_full_disk_while_saving_keeps_the_checkpoint(small, data, tmp_path, monkeypatch):
    first = tune(small, data, tmp_path / "run")
    kept = (first.path / "adapter_model.safetensors").read_bytes()
    checkpoint = (tmp_path / "run" / "checkpoint.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wkv.train.run_folder.torch.save", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        wkv.finetune(small, data, tmp_path / "run", resume=True, steps=4, threads=1)
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == checkpoint
    assert (first.path / "adapter_model.safetensors").read_bytes() == kept


class Killed(BaseException):
    """The end of a process, which nothing handles."""


def test_killed_while_it_trains_a_run_can_be_resumed(small, data, tmp_path, monkeypatch):
    options = {"steps": 4, "learning_rate": 0.01}
    save = RunFolder.save

    def killed(folder, state):
        save(folder, state)
        if state["step"] == 2:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save", killed)
        with pytest.raises(Killed):
            tune(small, data, tmp_path / "run", save_seconds=1e-9, **options)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 3, "tok')  # a line was being written
    whole = tune(small, data, tmp_path / "whole", **options)
    resumed = wkv.finetune(small, data, tmp_path / "run", resume=True, threads=1)
    assert resumed.after == whole.after
