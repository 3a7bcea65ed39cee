"""The command line as a user types it: what it prints where, and how it ends."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth

WKV = [sys.executable, "-m", "wkv"]


def run(*arguments, stdin=b"", **options):
    """Run a command line; stdout and stderr come back as bytes."""
    return subprocess.run(
        [*WKV, *map(str, arguments)], input=stdin, capture_output=True, timeout=120, **options
    )


@pytest.fixture
def inside(monkeypatch, capfdbinary):
    """Give `run` without a process of its own, which would spend its time on importing torch."""
    from wkv.cli import main

    def run_inside(*arguments, stdin=b""):
        with io.TextIOWrapper(io.BytesIO(stdin)) as stream:
            monkeypatch.setattr("sys.stdin", stream)
            status = main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return subprocess.CompletedProcess(arguments, status, out, err)

    return run_inside


def test_version_and_help_answer_at_once():
    import wkv

    begun = time.perf_counter()
    assert run("--version").stdout == f"wkv {wkv.__version__}\n".encode()
    helped = run("--help")
    assert helped.returncode == 0
    for command in (b"chat", b"generate", b"info", b"tokenize", b"train"):
        assert command in helped.stdout
    assert time.perf_counter() - begun < 20  # far above what it takes; torch alone takes longer


@pytest.mark.parametrize("arguments", [["--help"], ["nonsense"], ["generate", "--max-tokens"]])
def test_help_and_wrong_usage_import_nothing_heavy(arguments):
    code = (
        "import sys, wkv.cli\n"
        f"try: wkv.cli.main({arguments!r})\n"
        "except SystemExit as e: pass\n"
        "heavy = {'torch', 'numpy', 'safetensors', 'tokenizers', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["info", "--nonsense"]])
def test_wrong_usage_exits_2(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert b"usage: wkv" in done.stderr
    assert done.stdout == b""


def test_generate_prints_only_what_was_added():
    prompt = "User: What is 27 + 48?\n\nAssistant:"
    greedy = ("--temperature", "0", "--presence-penalty", "0", "--stop", "\n\n")
    done = run("generate", "--prompt", prompt, *greedy)
    assert (done.returncode, done.stdout, done.stderr) == (0, b" 27 + 48 = 75", b"")
    piped = run("generate", *greedy, stdin=prompt.encode())
    assert piped.stdout == done.stdout


def test_generate_json_has_the_three_fields():
    done = run("generate", "--prompt", "Alice", "--max-tokens", "5", "--seed", "1", "--json")
    answer = json.loads(done.stdout)
    assert set(answer) == {"text", "token_ids", "finish_reason"}
    assert len(answer["token_ids"]) == 5
    assert answer["finish_reason"] == "length"
    again = run("generate", "--prompt", "Alice", "--max-tokens", "5", "--seed", "1", "--json")
    assert again.stdout == done.stdout


def test_generate_takes_bytes_that_are_not_utf_8():
    for options, stdin in ((["--prompt", b"\xff\xfe"], b""), ([], b"\xff\xfe")):
        command = [*WKV, "generate", "--max-tokens", "2", *options]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation_generates_and_tells_what_it_is(tmp_path, generation, inside):
    path = tmp_path / "model.pth"
    save_pth(random_checkpoint(generation, n_layer=2, n_embd=64, vocab_size=256), path)
    done = inside("generate", path, "--prompt", "abc", "--max-tokens", "8", "--seed", "0", "--json")
    assert len(json.loads(done.stdout)["token_ids"]) == 8
    facts = json.loads(inside("info", path, "--json").stdout)
    keys = "generation n_layer n_embd n_head head_size vocab_size n_params state_bytes layout"
    assert set(keys.split()) <= set(facts)
    assert facts["generation"] == generation
    assert facts["n_params"] == sum(tensor.numel() for tensor in torch.load(path).values())
    assert facts["layout"] == "pth"
    wkv_numbers = 3 * 64 if generation == "4" else 2 * 32 * 32
    assert facts["state_bytes"] == 4 * 2 * (2 * 64 + wkv_numbers)
    assert (facts["n_head"] is None) == (generation == "4")
    assert f"RWKV-{generation}".encode() in inside("info", path).stdout


@pytest.mark.parametrize("text", [b"Hello\n", "今天 😀".encode(), b"\xff\x00 \r\n\n", b""])
def test_tokenize_both_ways(text, inside):
    ids = inside("tokenize", stdin=text)
    assert ids.stdout.endswith(b"\n")
    assert ids.stdout.count(b"\n") == 1
    assert inside("tokenize", "--decode", stdin=ids.stdout).stdout == text


def test_tokenize_with_other_tokenizers(shared_data, inside):
    assert inside("tokenize", "--tokenizer", "bytes", stdin=b"ab").stdout == b"97 98\n"
    file = shared_data / "20B_tokenizer.json"
    assert inside("tokenize", "--tokenizer", file, stdin=b"\n").stdout == b"187\n"
    vocabulary = shared_data / "checkpoints/demo-rwkv7.vocab.txt"
    done = inside("tokenize", "--tokenizer", vocabulary, stdin=b"a")
    assert done.stdout == b"98\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "match"),
    [
        (["generate", "--prompt", ""], b"", b"the prompt is empty"),
        (["generate"], b"", b"the prompt is empty"),
        (["generate", "nothing.pth", "--prompt", "a"], b"", b"nothing.pth: there is no such file"),
        (["generate", "--prompt", "a", "--temperature", "-1"], b"", b"temperature is -1"),
        (["generate", "--prompt", "a", "--top-p", "2"], b"", b"top_p is 2"),
        (["generate", "--prompt", "a", "--stop", ""], b"", b"stop string"),
        (["generate", "--prompt", "a", "--strategy", "cuda int8"], b"", b"runs on the cpu"),
        (["generate", "--prompt", "a", "--tokenizer", "x"], b"", b"x is not a tokenizer"),
        (["info", "."], b"", b"there is no checkpoint in this folder"),
        (["tokenize", "--decode"], b"12 ab", b"'ab' is not a token id"),
        (["tokenize", "--decode"], b"9" * 5000, b"is not a token id"),
        (["tokenize", "--decode"], b"99999999", b"id 99999999 is not in the vocabulary"),
    ],
)
def test_errors_are_one_line_and_exit_1(arguments, stdin, match, inside):
    done = inside(*arguments, stdin=stdin)
    assert done.returncode == 1
    assert done.stdout == b""
    assert match in done.stderr
    assert done.stderr.startswith(b"wkv: ")
    assert done.stderr.count(b"\n") == 1
    shown = inside(*arguments, "--debug", stdin=stdin)
    assert b"Traceback" in shown.stderr


def test_a_tokenizer_of_the_hub_that_cannot_be_had_says_what_to_do():
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    done = run("tokenize", "--tokenizer", "20b", stdin=b"a", env=environment)
    assert done.returncode == 1
    assert b"20B_tokenizer.json" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_chat_answers_the_lines_of_a_pipe():
    lines = "Hello\n\nMy name is Tadeus.\nWhat is my name?\n"
    done = run("chat", stdin=lines.encode())
    answers = done.stdout.decode().strip().split("\n")
    assert done.returncode == 0
    assert len(answers) == 3
    assert "demo model" in answers[0]
    assert "Tadeus" in answers[2]


def test_chat_passes_over_lines_it_cannot_read():
    done = run("chat", stdin=b"\xff\xfe\nWhat is 27 + 48?\n")
    assert (done.returncode, done.stdout) == (0, b"27 + 48 = 75\n")
    assert b"line 1 is not UTF-8" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_standard_streams_make_no_traceback(closed):
    prompt = "" if closed == "<&-" else "--prompt Alice"
    command = f"{sys.executable} -m wkv generate {prompt} --max-tokens 2 {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr + done.stdout
    assert b"prompt is empty" in done.stderr if closed == "<&-" else done.returncode == 0


def test_errors_nobody_foresaw_are_one_line_too(monkeypatch, capsys):
    from wkv.cli import main

    def broken(*_):
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr("wkv.inference.describe.describe", broken)
    assert main(["info"]) == 1
    assert capsys.readouterr().err == ("wkv: ZeroDivisionError: by nothing (--debug shows where)\n")


def test_chat_says_at_once_that_there_is_no_tokenizer(checkpoint_paths):
    done = run("chat", checkpoint_paths["7"])
    assert done.returncode == 1
    assert b"no tokenizer is known for a vocabulary of 300 ids" in done.stderr


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m wkv generate --prompt Alice --max-tokens 200 | head -c 5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert done.stderr == b""
    assert len(done.stdout) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_ends_the_generation_and_keeps_what_was_said():
    command = [*WKV, "generate", "--prompt", "Alice was", "--max-tokens", "100000", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    answer = json.loads(stdout)
    assert answer["finish_reason"] in ("interrupted", "stop")
    assert answer["text"]


def test_the_defaults_that_help_tells_are_those_that_hold():
    import wkv
    from wkv.cli.options import SAMPLING
    from wkv.cli.train import DEFAULTS
    from wkv.train.settings import TrainingSettings

    for name, (_, _, default) in SAMPLING.items():
        assert getattr(wkv.Sampling(), name) == default
    for name in ("context", "rows", "learning_rate", "processes", "seed"):
        assert getattr(TrainingSettings, name) == DEFAULTS[name]
