"""`wkv train`: its options, what it refuses, and the model that comes out."""

import json

import pytest

import wkv
from wkv.cli import main
from wkv.errors import TrainingError
from wkv.train.initialize import new_config
from wkv.train.run_folder import RunFolder
from wkv.train.settings import TrainingSettings, choose

TEXT = "The rain in Spain stays mainly in the plain.\n\n" * 60
SIZES = ["--layers", "1", "--width", "64", "--vocab-size", "300", "--context", "32"]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """DATA and OUT of a complete run of one step."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "data.txt").write_text(TEXT)
    arguments = [str(folder / "data.txt"), str(folder / "run"), "--steps", "1", "--seed", "5"]
    assert main(["train", *arguments, "--rows", "2", "--no-compile", *SIZES]) == 0
    return folder / "data.txt", folder / "run"


@pytest.fixture
def copied(finished, tmp_path):
    """The same, OUT a copy that may be damaged."""
    data, run = finished
    out = tmp_path / "copy"
    out.mkdir()
    for path in run.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return data, out


def refusal(capsys, data, out, *options):
    """The one line that the command refuses with."""
    capsys.readouterr()
    assert main(["train", str(data), str(out), "--no-compile", *options]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def saved_plan(out):
    return RunFolder(out).load()["plan"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--processes", "0"),
        ("--processes", "-1"),
        ("--threads", "0"),
        ("--threads", "-1"),
        ("--rows", "0"),
        ("--rows", "-2"),
        ("--context", "0"),
        ("--layers", "0"),
        ("--layers", "-1"),
        ("--width", "0"),
        ("--width", "100"),
        ("--vocab-size", "256"),
        ("--steps", "0"),
        ("--steps", "-5"),
        ("--minutes", "0"),
        ("--minutes", "-1"),
        ("--minutes", "nan"),
        ("--minutes", "inf"),
        ("--learning-rate", "0"),
        ("--learning-rate", "-1"),
        ("--learning-rate", "nan"),
        ("--seed", "-1"),
        ("--seed", "1" * 23),
    ],
)
def test_number_out_of_range_is_refused_by_name(data, tmp_path, capsys, option, value):
    message = refusal(capsys, data, tmp_path / "out", f"{option}={value}")
    assert option in message
    assert value in message
    assert "give a" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 5, "processes": 2, "steps": 1}, "cannot be divided evenly"),
        ({}, "exactly one"),
        ({"steps": 1, "minutes": 1.0}, "exactly one"),
        ({"steps": 1.5}, "--steps is 1.5; give a whole number"),
        ({"steps": 1, "warmup": 0}, "--warmup is 0"),
        ({"steps": 1, "log_steps": 0}, "--log-steps is 0"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(TrainingError, match=message):
        TrainingSettings(**arguments)


def test_impossible_sizes_are_refused():
    with pytest.raises(TrainingError, match="multiple of 64"):
        new_config(vocab_size=300, n_layer=1, n_embd=96)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.vocab.txt", "log.jsonl", "loss.png", "checkpoint.pt"]
)
def test_files_of_others_are_not_overwritten(data, tmp_path, capsys, name):
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir()
    theirs.write_text("precious")
    assert "another folder" in refusal(capsys, data, tmp_path / "out", "--steps", "1", *SIZES)
    assert [path.name for path in theirs.parent.iterdir()] == [name]
    assert theirs.read_text() == "precious"


def test_data_that_cannot_be_read_is_named(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert "none.txt cannot be read (No such file" in refusal(capsys, tmp_path / "none.txt", out)
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    message = refusal(capsys, tmp_path / "latin.txt", out)
    assert "latin.txt is not UTF-8 text (line 1: byte 2 is 0xef)" in message
    (tmp_path / "empty").mkdir()
    assert "contains no .txt or .jsonl files" in refusal(capsys, tmp_path / "empty", out)
    assert f"{data} is a file; give a folder" in refusal(capsys, data, data)
    assert "cannot be created (Not a directory)" in refusal(capsys, data, data / "run", *SIZES)


def test_short_text_and_missing_run_are_refused(tmp_path, capsys):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    for _ in range(2):  # a refused run leaves nothing that would be in its way
        message = refusal(capsys, short, tmp_path / "out", "--steps", "1", "--width", "64")
        assert "give more text" in message
    message = refusal(capsys, short, tmp_path / "none", "--steps", "1", "--resume")
    assert "no checkpoint.pt" in message


def test_command_trains_a_model_that_loads(finished):
    _, out = finished
    model = wkv.load(out / "model.safetensors")
    assert model.tokenizer.decode(model.tokenizer.encode(TEXT)) == TEXT
    written = wkv.generate(model, "The rain", max_tokens=4)
    assert len(written.token_ids) <= 4
    assert written.finish_reason in ("length", "stop")


def test_resumed_run_has_the_options_it_began_with(copied):
    data, out = copied
    before = saved_plan(out)
    assert (before["steps"], before["rows"], before["seed"]) == (1, 2, 5)
    assert main(["train", str(data), str(out), "--resume", "--no-compile"]) == 0
    assert saved_plan(out) == before
    assert main(["train", str(data), str(out), "--resume", "--no-compile", "--steps", "2"]) == 0
    assert saved_plan(out) == {**before, "steps": 2}
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


@pytest.mark.parametrize(
    ("option", "value", "was"),
    [
        ("--rows", "4", "2"),
        ("--context", "16", "32"),
        ("--seed", "6", "5"),
        ("--layers", "2", "1"),
        ("--width", "128", "64"),
        ("--vocab-size", "400", "300"),
    ],
)
def test_resuming_another_run_is_refused_and_names_what_differs(
    finished, capsys, option, value, was
):
    message = refusal(capsys, *finished, "--resume", option, value)
    assert f"was trained with {option} {was}, not {value}; resume with the same" in message


def test_resuming_with_other_data_is_refused(finished, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("rain", "snow"))
    message = refusal(capsys, other, finished[1], "--resume")
    assert "was trained with DATA sha256:" in message
    assert "--" not in message


def test_options_are_given_or_saved_or_by_default():
    defaults = {"steps": None, "minutes": 10.0, "rows": 8}
    saved = {"steps": 5, "minutes": None, "rows": 4, "warmup": 7}
    assert choose({}, {}, defaults) == defaults
    assert choose({"rows": None}, saved, defaults) == {"steps": 5, "minutes": None, "rows": 4}
    assert choose({"minutes": 1.0, "rows": 2, "data": "x"}, saved, defaults) == {
        "steps": None,
        "minutes": 1.0,
        "rows": 2,
    }


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("checkpoint.pt", lambda path: path.write_bytes(path.read_bytes()[:5000]), "is damaged"),
        ("checkpoint.pt", lambda path: path.write_bytes(b""), "is damaged"),
        ("checkpoint.pt", lambda path: path.write_text("garbage"), "is damaged"),
        ("log.jsonl", lambda path: path.write_text("garbage\n"), "cannot be read as the log"),
        ("log.jsonl", lambda path: path.write_text("[1]\n2\n"), "cannot be read as the log"),
        ("log.jsonl", lambda path: path.write_bytes(b"\xff\n"), "cannot be read as the log"),
        ("log.jsonl", lambda path: path.unlink(), "No such file"),
        ("model.vocab.txt", lambda path: path.write_text("garbage\n"), "garbage"),
        ("model.vocab.txt", lambda path: path.unlink(), "model.vocab.txt"),
    ],
    ids=[
        *("truncated checkpoint", "empty checkpoint", "garbage checkpoint"),
        *("garbage log", "log of other things", "binary log", "no log"),
        *("garbage vocabulary", "no vocabulary"),
    ],
)
def test_damaged_folder_is_refused(copied, capsys, name, damage, message):
    data, out = copied
    damage(out / name)
    refused = refusal(capsys, data, out, "--resume", "--steps", "3")
    assert name in refused
    assert message in refused


def test_checkpoint_of_an_older_version_is_refused(copied, capsys):
    import torch

    data, out = copied
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    del state["plan"]
    torch.save(state, out / "checkpoint.pt")
    assert "not of this version of wkv" in refusal(capsys, data, out, "--resume")


def test_last_line_that_a_crash_cut_short_is_dropped(copied):
    data, out = copied
    with (out / "log.jsonl").open("a") as file:
        file.write('{"step": 5')
    assert main(["train", str(data), str(out), "--resume", "--no-compile", "--steps", "2"]) == 0
    assert [entry["step"] for entry in RunFolder(out).entries()] == [1, 2]
