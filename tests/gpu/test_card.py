"""The checks of a card run on a CPU, too; only graphs need a GPU."""

import json
import time

import pytest
import torch

from bench.card.__main__ import main
from bench.card.report import Card

SECTIONS = ["card", "parity", "graphs", "sampler", "speed", "rivals", "breakdown", "served"]


def test_a_dry_run_passes_in_every_section(triton_interpreter, tmp_path, capsys):
    assert main(["--dry", "--out", str(tmp_path), "--generations", "4"]) == 0
    report = json.loads((tmp_path / "card.json").read_text())
    assert list(report["sections"]) == SECTIONS
    assert report["failures"] == []
    assert sum(section.get("checks", 0) for section in report["sections"].values()) > 20
    assert "0 failed" in capsys.readouterr().out


def test_without_a_gpu_the_dry_run_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path)]) == 1
    assert "--dry" in capsys.readouterr().out


@pytest.fixture
def card(tmp_path):
    return Card(tmp_path, torch.device("cpu"), dry=False, seconds=100)


def test_a_failed_check_and_an_error_are_failures(card):
    def fail(card):
        card.check("sum", 1 + 1 == 3, "1 + 1 is 2")
        raise ValueError("broken")

    card.section("arithmetic", 1, fail)
    card.section("later", 1, lambda card: card.check("fine", True))
    assert [failure.partition("\n")[0] for failure in card.failures] == [
        "arithmetic: sum: 1 + 1 is 2",
        "arithmetic: runs to its end: Traceback (most recent call last):",
    ]
    written = json.loads((card.folder / "card.json").read_text())
    assert set(written["sections"]) == {"arithmetic", "later"}


def test_sections_have_deadlines(card):
    late = []
    card.section("quick", 60, lambda card: late.append(card.is_late))
    card.section("slow", -1, lambda card: late.append(card.is_late))
    card._began = time.monotonic() - 90
    card.section("skipped", 20, late.append)
    assert late == [False, True]
    assert card.failures == ["skipped: skipped for lack of time"]
