"""`wkv quantize`: what it reports, before it saves anything."""

import io
import json

import pytest

import wkv
from wkv.cli import main
from wkv.demo import WEIGHTS

FAST = ("--tokens", "64", "--exercises", "1")


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch):
    monkeypatch.setattr("wkv.evaluate.cost.TURN", 0.01)


def test_the_report_comes_before_the_file(tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo4.safetensors"
    there = []
    from wkv.evaluate import cost

    compare = cost.compare

    def watched(*arguments, **options):
        there.append(out.exists())
        return compare(*arguments, **options)

    monkeypatch.setattr(cost, "compare", watched)
    assert main(["quantize", str(WEIGHTS), str(out), "--to", "int4", *FAST]) == 0
    assert there == [False]
    told, progress = capsys.readouterr()
    for fact in (
        *("cpu int4", "file, MB", "tokens/s", "bits per byte", "exercises right"),
        *("KL divergence  ", " nats per token", "greedy tokens unchanged", "percentage points"),
    ):
        assert fact in told
    assert "Int4 weights were calibrated on 11," in told
    assert "calibrating 100 %" in progress
    assert f"{out}: verified to be exact, and saved" in told
    assert "packing 100 %" in progress
    assert "\r" not in progress
    assert str(wkv.load(out).strategy) == "cpu int4"


def test_json_and_what_it_measured(tmp_path, capsys):
    out = tmp_path / "demo8.safetensors"
    command = ["quantize", str(WEIGHTS), str(out), "--to", "int8", "--json", "--tokens", "256"]
    assert main([*command, "--exercises", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kept"] is True
    assert report["tokens"] == 256
    assert report["file_bytes"] == [WEIGHTS.stat().st_size, out.stat().st_size]
    assert report["file_bytes"][1] < 0.65 * report["file_bytes"][0]
    before, after = report["bits_per_byte"]
    assert abs(after - before) < 0.01
    assert 0 < report["kl"]["low"] < report["kl"]["value"] < report["kl"]["high"] < 0.005
    assert 0 < report["mean_difference"] < report["largest_difference"] < 2
    unchanged = report["unchanged"]
    assert 0.9 < unchanged["low"] < unchanged["value"] <= unchanged["high"] <= 1
    right = report["exercises"]
    assert right["asked"] == 2 * 24
    assert right["right"][1] - right["right"][0] == pytest.approx(right["change"]["value"])
    assert right["change"]["low"] < right["change"]["value"] < right["change"]["high"]
    assert report["questions"] is None
    assert min(report["tokens_per_second"]) > 0


def test_a_dry_run_and_too_great_a_loss_save_nothing(tmp_path, capsys):
    command = ["quantize", str(WEIGHTS), str(tmp_path / "x"), "--to", "int4", *FAST]
    command += ["--calibrate", "none"]
    assert main([*command, "--dry-run"]) == 0
    told, said = capsys.readouterr()
    assert "bits per byte" in told
    assert "saved" not in told
    assert "nothing was saved (--dry-run)" in said
    assert main([*command, "--max-loss", "0"]) == 1
    told, said = capsys.readouterr()
    assert "bits per byte" in told
    assert "more than the 0 of --max-loss; nothing was saved" in said
    assert list(tmp_path.iterdir()) == []
    assert main([*command, "--max-loss", "1"]) == 0
    assert (tmp_path / "x.safetensors").is_file()


def test_questions_of_ones_own(tmp_path, capsys):
    """Both forms of questions are asked, and those that only one model answers are counted."""
    from wkv.demo import QUESTIONS

    mine = tmp_path / "mine.jsonl"
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()[::90]
    mine.write_text("\n".join([*lines, '{"prompt": "The lamp", "answer": "xyz"}']))
    command = ["quantize", str(WEIGHTS), str(tmp_path / "x"), "--to", "int8", *FAST]
    assert main([*command, "--questions", str(mine), "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)["questions"]
    assert asked["asked"] == 9
    assert asked["right"][0] <= 8 / 9
    assert asked["gained"] - asked["lost"] == pytest.approx(9 * asked["change"]["value"])
    assert main([*command, "--questions", str(mine), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "questions right" in told
    assert "Of 9 questions, " in told
    mine.write_text('\n{"prompt": "a"}')
    assert main([*command, "--overwrite", "--questions", str(mine)]) == 1
    told, said = capsys.readouterr()
    assert f'{mine}, line 2: "answer" is not a text' in said
    assert told == ""


def test_a_divergence_is_judged_on_another_text_than_it_was_chosen_on(
    tmp_path, capsys, monkeypatch
):
    from wkv.evaluate import cost

    compare, read = cost.compare, []

    def watched(before, after, ids, *rest):
        read.append(ids)
        return compare(before, after, ids, *rest)

    monkeypatch.setattr(cost, "compare", watched)
    monkeypatch.setattr("wkv.convert.mixture.order_by_loss", lambda both, *_: list(both.large))
    words = cost.passage(None)
    for name, text, tokens in (("long", words, 40), ("short", words[:300], 1000)):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        command = ["quantize", str(WEIGHTS), str(tmp_path / "x"), "--max-kl", "0.02", "--json"]
        command += ["--exercises", "0", "--dry-run", "--calibrate", "none"]
        read.clear()
        assert main([*command, "--text", str(file), "--tokens", str(tokens)]) == 0
        ids = wkv.load().tokenizer.encode(text)
        *chosen_on, judged = read
        assert all(one == chosen_on[0] for one in chosen_on)
        assert judged + chosen_on[0] == ids[: 2 * tokens + 2]
        assert json.loads(capsys.readouterr().out)["tokens"] == len(judged) - 1


def test_the_text_of_the_calibration_does_not_judge_it_unnoticed(byte_model, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("The lamp turned; a long white finger touched the roofs. " * 8)
    command = ["quantize", str(byte_model.path), str(tmp_path / "x"), "--to", "int4", "--dry-run"]
    command += ["--calibrate", str(text)]
    assert main([*command, *FAST, "--text", str(text)]) == 0
    assert "so the loss on others is larger" in capsys.readouterr().out
    assert main([*command, *FAST]) == 0
    assert "so the loss on others is larger" not in capsys.readouterr().out


def test_a_text_of_ones_own_and_a_model_without_a_tokenizer(
    byte_model, checkpoint_paths, tmp_path, capsys
):
    text = tmp_path / "text.txt"
    text.write_text("Noch eine Zeile, für Bytes.", encoding="utf-8")
    command = ["quantize", str(byte_model.path), str(tmp_path / "b"), "--to", "int8"]
    assert main([*command, "--text", str(text), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tokens"] == len(text.read_bytes()) - 1
    assert report["exercises"] is None
    unknown = ["quantize", str(checkpoint_paths["6"]), str(tmp_path / "u"), "--to", "int8", *FAST]
    assert main(unknown) == 0
    assert "64 tokens of random ids" in capsys.readouterr().out
    again = [*unknown, "--overwrite", "--max-loss", "1"]
    assert main(again) == 1
    assert "no tokenizer is known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--text", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["--tokenizer", "x"], "x is not a tokenizer"),
        (["--questions", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
        (["--tokens", "3"], "the text has 3 tokens to predict, expected at least 16"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, match):
    command = ["quantize", str(WEIGHTS), str(tmp_path / "x"), "--to", "int8", *FAST]
    assert main([*command, *arguments]) == 1
    said = capsys.readouterr().err
    assert match in said
    assert list(tmp_path.iterdir()) == []


def test_an_empty_text_and_wrong_usage(byte_model, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("")
    command = ["quantize", str(byte_model.path), str(tmp_path / "x"), "--to", "int8"]
    assert main([*command, "--text", str(text)]) == 1
    assert "there is no text in it" in capsys.readouterr().err
    for wrong in (
        ["--max-loss", "-1"],
        ["--max-loss", "nan"],
        ["--exercises", "-1"],
        ["--calibrate", str(text)],
        ["--bits", "5"],  # --to is int8
        ["--max-kl", "nan"],
        ["--bits", "5", "--max-kl", "1"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, *wrong])
        assert ended.value.code == 2
    with pytest.raises(SystemExit) as ended:
        main([*command[:3], "--to", "int3"])
    assert ended.value.code == 2
    for missing in ([], ["--bits", "4.4"], ["--bits", "9"], ["--max-kl", "-1"]):
        with pytest.raises(SystemExit) as ended:
            main([*command[:3], *missing])
        assert ended.value.code == 2
    assert not (tmp_path / "x.safetensors").exists()


def test_a_quantised_model_is_chatted_with_and_told_of(tmp_path, capsys, monkeypatch):
    out = tmp_path / "demo8.safetensors"
    assert main(["quantize", str(WEIGHTS), str(out), "--to", "int8", *FAST]) == 0
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(["info", str(WEIGHTS), "--json"]) == 0
    original = json.loads(capsys.readouterr().out)
    same = ("generation", "n_layer", "n_embd", "n_params", "state_bytes", "vocab_size")
    assert {key: facts[key] for key in same} == {key: original[key] for key in same}
    assert facts["layout"] == "packed"
    greedy = ("--temperature", "0", "--presence-penalty", "0", "--stop", "\n\n")
    prompt = "User: What is 27 + 48?\n\nAssistant:"
    assert main(["generate", str(out), "--prompt", prompt, *greedy]) == 0
    assert capsys.readouterr().out == " 27 + 48 = 75"
    said = b"My name is Tadeus.\nWhat is my name?\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(said)))
    assert main(["chat", str(out), "--seed", "1"]) == 0
    assert capsys.readouterr().out.endswith("Your name is Tadeus.\n")
    assert main(["quantize", str(out), str(tmp_path / "y"), "--to", "int4"]) == 1
    assert "quantized already" in capsys.readouterr().err
