"""Rows, optimizer and the loop."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wkv.cli import main
from wkv.errors import TrainingError
from wkv.train.data import Mixture, Packed, Prose, batch
from wkv.train.loop import Plan, train
from wkv.train.optimizer import orthogonal
from wkv.train.text import text_job

TEXT = "The rain in Spain stays mainly in the plain.\n\n" * 60
SMALL = {"context": 32, "rows": 4, "warmup": 2, "log_steps": 1, "compile": False}
SIZES = {"layers": 1, "width": 64, "vocab_size": 300}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text(TEXT)
    return path


def run(data, out, steps, *, resume=False, stop_after=None, **plan):
    """Train; with stop_after, as if that had been the plan, but with the schedule of `steps`."""
    job = text_job(data, out, Plan(steps=steps, **SMALL, **plan), **SIZES, resume=resume)

    def report(entry, progress):
        if entry["step"] == stop_after:
            import signal

            signal.raise_signal(signal.SIGTERM)

    return train(job, report, lambda message: None), job.folder


def test_loss_falls_and_the_folder_is_complete(data, tmp_path):
    is_done, folder = run(data, tmp_path / "run", 30, learning_rate=1e-2)
    losses = [entry["loss"]["prose"] for entry in folder.entries()]
    assert is_done
    assert len(losses) == 30
    assert losses[-1] < 0.5 * losses[0]
    names = {path.name for path in folder.path.iterdir()}
    assert {"checkpoint.pt", "model.safetensors", "model.vocab.txt", "log.jsonl"} <= names
    assert load_file(folder.model)["emb.weight"].dtype == torch.bfloat16


def test_stopped_and_resumed_equals_uninterrupted(data, tmp_path):
    _, whole = run(data, tmp_path / "whole", 6)
    is_done, parts = run(data, tmp_path / "parts", 6, stop_after=3)
    assert not is_done
    assert json.loads(parts.log.read_text().splitlines()[-1])["step"] == 3
    is_done, _ = run(data, tmp_path / "parts", 6, resume=True)
    assert is_done
    for name, value in whole.load()["model"].items():
        torch.testing.assert_close(parts.load()["model"][name], value, rtol=0, atol=0)
    kept = [[(e["step"], e["loss"]) for e in folder.entries()] for folder in (whole, parts)]
    assert kept[0] == kept[1]


def test_two_processes_train_as_one(data, tmp_path):
    _, one = run(data, tmp_path / "one", 2)
    _, two = run(data, tmp_path / "two", 2, processes=2)
    alone, shared = (
        torch.cat([value.flatten() for value in folder.load()["model"].values()])
        for folder in (one, two)
    )
    assert (alone - shared).norm() / alone.norm() < 3e-3


def test_rows_depend_on_their_number_alone():
    texts = [np.arange(1, 500), np.arange(1000, 1800)]
    prose, again = (Prose(texts, 16, 5, paragraph_token=7) for _ in range(2))
    chat = Packed(lambda random: [("ab", 0.0), (str(random.random()), 1.0)], list_of_bytes, 16, 5)
    mixed = Mixture(prose, chat, 0.25)
    forward = [mixed.row(number) for number in range(300)]
    backward = [Mixture(again, chat, 0.25).row(number) for number in reversed(range(300))]
    assert forward == backward[::-1]
    assert sum(row.source == "prose" for row in forward) == 75


def test_an_epoch_takes_every_piece_once():
    prose = Prose([np.arange(1, 500)], 16, 5, paragraph_token=None)
    starts = sorted(prose._epoch(0))
    assert [start - starts[0][1] for _, start in starts] == list(range(0, 16 * len(starts), 16))
    assert prose._epoch(0) != prose._epoch(1)


def test_batch_shifts_targets():
    rows = batch(Prose([np.arange(1, 500)], 16, 5, paragraph_token=None), 0, 3)
    assert rows.inputs.shape == (3, 16)
    assert (rows.targets == rows.inputs + 1).all()


def test_orthogonal_levels_singular_values():
    matrices = torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(0))
    for shaped in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonal(shaped))
        assert values.min() > 0.5
        assert values.max() < 1.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 5, "processes": 2, "steps": 1}, "cannot be shared"),
        ({}, "exactly one"),
        ({"steps": 1, "minutes": 1.0}, "exactly one"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(TrainingError, match=message):
        Plan(**arguments)


def test_short_text_and_missing_run_are_refused(tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    assert main(["train", str(short), str(tmp_path / "out"), "--steps", "1", "--width", "64"]) == 1
    assert "give more text" in capsys.readouterr().err
    assert main(["train", str(short), str(tmp_path / "none"), "--steps", "1", "--resume"]) == 1
    assert "no checkpoint.pt" in capsys.readouterr().err


def test_command_trains_a_model_that_loads(data, tmp_path, capsys):
    sizes = ["--layers", "1", "--width", "64", "--vocab-size", "300", "--context", "32"]
    out = tmp_path / "run"
    assert main(["train", str(data), str(out), "--steps", "2", "--no-compile", *sizes]) == 0
    assert capsys.readouterr().out.strip() == str(out / "model.safetensors")


def list_of_bytes(text):
    return list(text.encode())
