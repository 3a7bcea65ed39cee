"""`wkv eval` as a user types it."""

import json
import subprocess
import sys
from functools import partial

import pytest

from tests.checkpoints import random_checkpoint, save_pth
from wkv.cli import main

TEXTS = [f"the {'quick brown fox jumps over'[: 3 + i % 20]} dog" for i in range(120)]


@pytest.fixture
def data(tmp_path):
    """Give a file of documents."""
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.fixture
def other(tmp_path):
    """Give a second byte-level model."""
    path = tmp_path / "other.pth"
    save_pth(random_checkpoint("6", n_layer=1, n_embd=64, vocab_size=256), path)
    return path


@pytest.fixture
def evaluate(capsys):
    """Give `wkv eval` in this process: status, stdout, stderr."""

    def run(*arguments):
        try:
            status = main(["eval", *map(str, arguments)])
        except SystemExit as error:
            status = error.code
        return (status, *capsys.readouterr())

    return run


def test_a_line_every_hundred_documents_and_at_the_end(evaluate, byte_model, data):
    status, out, err = evaluate("lambada", byte_model.path, "--data", data)
    lines = [line.split() for line in out.splitlines()]
    assert status == 0
    assert [line[0] for line in lines] == ["100", "120"]
    assert all(len(word.split(".")[1]) == 2 for line in lines for word in line[1:])
    assert "\r" not in err
    for order in (
        ["--limit", 100, "lambada", byte_model.path, "--data", data],
        ["lambada", "--limit", 100, "--data", data, byte_model.path],
    ):
        assert evaluate(*order)[1].split() == lines[0]


def test_against_prints_both_and_the_difference(evaluate, byte_model, other, data):
    alone = [evaluate("lambada", model, "--data", data)[1] for model in (byte_model.path, other)]
    told = evaluate("lambada", byte_model.path, "--against", other, "--data", data)
    assert told[0] == 0
    assert "--against" in told[2]
    for line, ours, theirs in zip(*(text.splitlines() for text in (told[1], *alone)), strict=True):
        words = line.split()
        assert words[:3] == ours.split()
        assert words[3:5] == theirs.split()[1:]
        assert float(words[5]) == pytest.approx(float(words[1]) - float(words[3]), abs=0.011)
        assert words[5][0] in "+-"


def test_json_is_one_object_with_all_there_is(evaluate, byte_model, other, data):
    status, out, _ = evaluate(
        "lambada", byte_model.path, "--against", other, "--data", data, "--limit", 30, "--json"
    )
    told = json.loads(out)
    assert status == 0
    ours, theirs = told["models"]
    assert (ours["count"], ours["generation"], theirs["generation"]) == (30, "7", "6")
    assert ours["begin"] == []
    assert {"ppl", "acc", "seconds", "tokens_per_second", "identity", "strategy"} <= set(ours)
    assert told["difference"]["ppl"] == pytest.approx(ours["ppl"] - theirs["ppl"])
    assert (told["begin"], told["batch_size"], told["limit"]) == ("auto", 8, 30)
    assert told["lines"][-1]["ppl"] == [ours["ppl"], theirs["ppl"]]
    if sys.platform == "linux":
        assert told["peak_memory_bytes"] > 10e6


def test_what_is_read_first_changes_the_figures(evaluate, byte_model, data):
    shared = ("lambada", byte_model.path, "--data", data, "--limit", 20)
    plain = evaluate(*shared)[1]
    assert evaluate(*shared, "--begin", "none")[1] == plain
    assert evaluate(*shared, "--begin", "0")[1] != plain


def test_results_are_kept_and_gone_on_with(evaluate, byte_model, other, data, tmp_path):
    file = tmp_path / "results.jsonl"
    shared = ("lambada", byte_model.path, "--data", data)
    whole = evaluate(*shared)[1]
    assert evaluate(*shared, "--limit", 100, "--resume", file)[0] == 0
    status, out, _ = evaluate(*shared, "--resume", file, "--json")
    assert (status, json.loads(out)["models"][0]["count"]) == (0, 120)
    assert evaluate(*shared, "--resume", file)[1] == whole
    for changed in (("--begin", "0"), ("--against", other), ("--strategy", "cpu bf16")):
        status, out, err = evaluate(*shared, "--resume", file, *changed)
        assert (status, out) == (1, "")
        assert "models is" in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["model.pth"],
        ["lambada", "a.pth", "b.pth"],
        ["lambada", "--tasks", "piqa"],
        ["a.pth", "b.pth", "--tasks", "piqa"],
        ["--tasks", "piqa", "--against", "a.pth"],
        ["--tasks", "piqa", "--resume", "file"],
        ["lambada", "--num-fewshot", "0"],
        ["lambada", "--apply-chat-template"],
        ["lambada", "--limit", "0"],
        ["lambada", "--batch-size", "x"],
        ["lambada", "--begin", "1"],
    ],
)
def test_wrong_usage_exits_2(evaluate, arguments):
    status, out, err = evaluate(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: wkv eval lambada [MODEL]")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "there is no such file"),
        ("a b\n", "is not valid JSON"),
        ('{"txt": "a"}\n', 'there is no "text"'),
        ('{"text": "word"}\n', "single word"),
    ],
)
def test_errors_are_one_line(evaluate, byte_model, tmp_path, content, match):
    path = tmp_path / "bad.jsonl"
    if content is not None:
        path.write_text(content)
    status, out, err = evaluate("lambada", byte_model.path, "--data", path)
    assert (status, out) == (1, "")
    assert match in err
    assert err.count("\n") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_tasks_print_the_table_of_the_harness(evaluate, byte_model, tmp_path, monkeypatch):
    tasks = pytest.importorskip("lm_eval.tasks")
    quick = partial(tasks.TaskManager, include_defaults=False)  # it brings thousands of files
    monkeypatch.setattr(tasks, "TaskManager", quick)
    (tmp_path / "read.py").write_text(
        "import datasets\n"
        "def load(**_):\n"
        "    rows = [{'text': 'a b', 'said': ' c'}] * 3\n"
        "    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))\n"
    )
    (tmp_path / "tiny.yaml").write_text(
        "task: tiny\ncustom_dataset: !function read.load\ntest_split: test\n"
        'output_type: loglikelihood\ndoc_to_text: "{{text}}"\ndoc_to_target: "{{said}}"\n'
        "metric_list: [{metric: acc}]\n"
    )
    shared = (byte_model.path, "--tasks", "tiny", "--include-path", tmp_path)
    status, out, _ = evaluate(*shared)
    assert status == 0
    assert "|tiny" in out
    status, out, _ = evaluate(*shared, "--json", "--limit", 2, "--apply-chat-template")
    told = json.loads(out)
    assert status == 0
    assert told["results"]["tiny"]["acc,none"] in (0, 1)
    assert told["n-samples"]["tiny"]["effective"] == 2


@pytest.mark.parametrize("arguments", [["--help"], [], ["lambada", "--data", "nothing.jsonl"]])
def test_help_wrong_usage_and_a_typo_import_nothing_heavy(arguments):
    code = (
        "import sys, wkv.cli\n"
        f"try: wkv.cli.main(['eval', *{arguments!r}])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'rich', 'lm_eval'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_terminal_gets_words_instead_of_bare_numbers(evaluate, byte_model, other, data):
    numbers = evaluate("lambada", byte_model.path, "--data", data)[1].splitlines()[-1].split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        words = evaluate("lambada", byte_model.path, "--data", data)[1].splitlines()[-1]
        both = evaluate("lambada", byte_model.path, "--against", other, "--data", data)[1]
    count, ppl, acc = numbers
    assert words.endswith(f"{count} documents: perplexity {ppl}, accuracy {acc} %")
    assert f"perplexity {ppl} and " in both
    assert both.count("(difference ") == 4
