"""Rows, optimizer and the loop."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from safetensors.torch import load_file

from wkv.errors import TrainingError
from wkv.train.data import Mixture, PackedDocuments, Prose, batch, split_off
from wkv.train.optimizer import orthogonal
from wkv.train.scratch import train
from wkv.train.settings import TrainingSettings
from wkv.train.text import text_job

TEXT = "The rain in Spain stays mainly in the plain.\n\n" * 60
SMALL = {"context": 32, "rows": 4, "warmup": 2, "log_steps": 1, "compile": False}
SIZES = {"layers": 1, "width": 64, "vocab_size": 300}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text(TEXT)
    return path


def run(data, out, steps, *, resume=False, stop_after=None, **settings):
    """Train; with stop_after, as if that had been the plan, but with the schedule of `steps`."""
    job = text_job(
        data, out, TrainingSettings(steps=steps, **SMALL, **settings), **SIZES, resume=resume
    )

    def report(entry, progress):
        if entry["step"] == stop_after:
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


@pytest.mark.parametrize("processes", [1, 2])
def test_diverged_run_stops_and_keeps_the_last_good_checkpoint(data, tmp_path, processes):
    _, folder = run(data, tmp_path / "run", 2)
    before = folder.checkpoint.read_bytes(), folder.model.read_bytes()
    with pytest.raises(TrainingError, match=r"diverged: .* finite .* lower --learning-rate"):
        run(data, folder.path, 40, resume=True, learning_rate=1e20, processes=processes)
    assert (folder.checkpoint.read_bytes(), folder.model.read_bytes()) == before


def test_run_that_fails_before_its_first_checkpoint_can_be_started_again(data, tmp_path):
    with pytest.raises(TrainingError, match="start again"):
        run(data, tmp_path / "run", 40, learning_rate=1e20)
    assert list((tmp_path / "run").iterdir()) == []


def test_run_shorter_than_the_log_interval_is_logged(data, tmp_path):
    shown = []
    settings = TrainingSettings(steps=2, **{**SMALL, "log_steps": 50})
    job = text_job(data, tmp_path / "run", settings, **SIZES, resume=False)
    assert train(job, lambda entry, progress: shown.append((entry, progress)), lambda message: None)
    assert [(entry["step"], progress) for entry, progress in shown] == [(2, 1.0)]
    assert job.folder.entries() == [entry for entry, _ in shown]


class Dies:
    """Kills the process that unpickles it, before any meeting."""

    def __reduce__(self):
        return os._exit, (3,)


class DiesLater:
    """Kills any process but the one that made it, when it makes rows."""

    def __init__(self):
        self.maker = os.getpid()

    def __call__(self):
        if os.getpid() != self.maker:
            os._exit(4)
        return Prose([np.arange(1, 200)], 32, 0, paragraph_token=None)


@pytest.mark.parametrize(("rows", "code"), [(Dies, 3), (DiesLater, 4)])
def test_lost_helper_ends_the_run(data, tmp_path, rows, code):
    settings = TrainingSettings(steps=2, processes=2, **SMALL)
    job = replace(
        text_job(data, tmp_path / "run", settings, **SIZES, resume=False), make_rows=rows()
    )
    with pytest.raises(TrainingError, match=rf"helper processes ended .*exit code {code}"):
        train(job, lambda entry, progress: None, lambda message: None)


def test_rows_depend_on_their_number_alone():
    texts = [np.arange(1, 500), np.arange(1000, 1800)]
    prose, again = (Prose(texts, 16, 5, paragraph_token=7) for _ in range(2))
    chat = PackedDocuments(
        lambda random: [("ab", 0.0), (str(random.random()), 1.0)], list_of_bytes, 16, 5
    )
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


def test_the_end_of_a_long_text_is_held_out():
    text = np.arange(2000)
    rest, rows = split_off(text, 9)
    assert np.array_equal(np.concatenate([rest, *(row.ids for row in rows)]), text)
    assert (len(rest), [len(row.ids) for row in rows]) == (1920, [10] * 8)
    assert split_off(text[:99], 9) == (pytest.approx(text[:99]), [])
    assert len(split_off(text[:100], 9)[1]) == 1


def test_the_log_and_the_plot_have_a_held_out_curve(tmp_path, monkeypatch):
    data = tmp_path / "long.txt"
    data.write_text(" ".join(str(number) for number in range(4000)))
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *xy, **how: drawn.append(how) or plot(*xy, **how))
    _, folder = run(data, tmp_path / "run", 2)
    assert [set(entry["loss"]) for entry in folder.entries()] == 2 * [{"prose", "held-out"}]
    assert {how["label"] for how in drawn} == {"prose", "held-out"}
    assert all(how["marker"] for how in drawn)  # a single point is visible


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


def list_of_bytes(text):
    return list(text.encode())
