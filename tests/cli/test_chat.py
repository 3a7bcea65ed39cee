"""`wkv chat` in a pipe: every command, twice the same, and lines that nobody should send."""

import io
import subprocess

import pytest

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.chat import COMMANDS, PRESETS
from wkv.chat.free_text import FreeText
from wkv.chat.language import LANGUAGES
from wkv.cli import chat as chat_command
from wkv.cli import main


@pytest.fixture
def run(monkeypatch, capfdbinary):
    """Give a function that runs a chat on what is piped in, without a process of its own."""

    def run_chat(*arguments, stdin):
        stdin = stdin.encode() if isinstance(stdin, str) else stdin
        with io.TextIOWrapper(io.BytesIO(stdin)) as stream:
            monkeypatch.setattr("sys.stdin", stream)
            try:
                status = main(["chat", *map(str, arguments)])
            except SystemExit as wrong_usage:
                status = wrong_usage.code
        out, err = capfdbinary.readouterr()
        return subprocess.CompletedProcess(arguments, status, out, err)

    return run_chat


@pytest.fixture
def script(tmp_path):
    """Give lines that use every command, and the arguments they need."""
    (tmp_path / "prompt.py").write_text("user = 'User'\nbot = 'Assistant'\ninit_prompt = ''\n")
    (tmp_path / "text.txt").write_text("The tower is green.\n\n\nIt is high.\n")
    return [
        "My name is Tadeus.",
        "What is my name?",
        "+",
        "+ -temp=2",
        "+save first",
        "+fork second",
        "+undo",
        "+load main",
        "+list",
        "+gen Alice was",
        "+++",
        "++",
        "+i Say hello.",
        "+qq What is 1 + 2?",
        "+qa What is 1 + 2?",
        f"+read {tmp_path / 'text.txt'}",
        "+think a bit",
        "+nothink",
        "+think off",
        "+set",
        "+set max_tokens 20",
        f"+prompt {tmp_path / 'prompt.py'}",
        "+1 What is 3 + 4?",
        "+reset",
        "+system You are kind.",
        "Hello",
        "+load first",
        "What is my name?",
        "+help",
        "+help save",
        "+exit",
        "Nobody reads this.",
    ]


def test_a_conversation_with_every_command_repeats_with_a_seed(run, script, tmp_path, monkeypatch):
    monkeypatch.setattr(FreeText.__init__, "__defaults__", (16, None))  # free texts are shorter
    used = {line.split(" ")[0] for line in script if line.startswith("+")}
    assert set(COMMANDS) - used == {"+stats"}  # it tells the time that was taken
    stdin = "\n".join(script)
    done, again = (
        run("--seed", 3, "--chats", tmp_path / f"chats{i}", stdin=stdin) for i in range(2)
    )
    assert done.returncode == again.returncode == 0, done.stderr
    assert done.stdout == again.stdout
    replies = done.stdout.decode()
    assert replies.count("Tadeus") >= 3
    assert "Nobody" not in replies
    notices = done.stderr.decode()
    assert "Traceback" not in notices
    assert "wkv: " not in notices
    assert "Loaded first. Turns so far: 2." in notices


def test_notices_of_times_stay_out_of_stdout(run, tmp_path):
    done = run("--chats", tmp_path, stdin="+stats\n+help\n+list\n+set\n")
    assert done.stdout == b""
    assert b"+exit" in done.stderr


def test_bad_lines_are_one_line_each_and_the_conversation_goes_on(run, tmp_path):
    (tmp_path / "code.py").write_text("import os\n")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 30)
    lines = [
        b"My name is Tadeus.",
        b"+nonsense",
        b"+prompt missing.py",
        b"+prompt " + str(tmp_path / "code.py").encode(),
        b"+load damaged",
        b"+load ../../etc/passwd",
        b"Hello -temp=abc",
        b"\xff\xfe",
        b"+set temperature hot",
        b"What is my name?",
    ]
    done = run("--chats", tmp_path, stdin=b"\n".join(lines))
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 2
    assert b"Tadeus" in done.stdout.splitlines()[1]
    notices = done.stderr.decode().splitlines()
    assert len(notices) == 8, notices
    assert all(words in notice for words, notice in zip(WRONG, notices, strict=True))


WRONG = [
    "Unknown command +nonsense",
    "missing.py cannot be read",
    "code.py, line 1",
    "damaged.safetensors: the file cannot be read as a state",
    "is not a valid name for a chat",
    "-temp=abc is not a number",
    "line 8 is not UTF-8",
    "temperature is 'hot'",
]


@pytest.mark.parametrize(
    ("locale", "shown"),
    [("zh_CN.UTF-8", "撤销"), ("ja_JP.UTF-8", "取り消す"), ("de_DE.UTF-8", "undo"), ("C", "undo")],
)
def test_the_language_of_the_system_is_used(run, monkeypatch, locale, shown):
    for name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", locale)
    notices = run(stdin="+help\n+read none.txt\n").stderr.decode()
    assert shown in notices
    assert ("cannot be read" in notices) == (shown == "undo")
    assert "undo the last turn" in run("--language", "en", stdin="+help\n").stderr.decode()


def test_a_very_long_line(run, byte_model):
    done = run(byte_model.path, "--max-tokens", 2, "--system", "Be.", stdin=b"a" * 100_000 + b"\n")
    assert done.returncode == 0, done.stderr
    assert b"stopped at the maximum length" in done.stderr


def test_options_say_how_it_begins(run, tmp_path, demo):
    chats = ["--chats", tmp_path]
    run(*chats, stdin="My name is Tadeus.\n+save a\n")
    assert b"Tadeus" in run(*chats, "--load", "a", stdin="What is my name?\n").stdout
    told = "User: My name is Anna.\n\nAssistant: Nice to meet you, Anna!\n\n"
    demo.forward(demo.tokenizer.encode(told))[1].save(tmp_path / "state.safetensors")
    done = run("--state", tmp_path / "state.safetensors", stdin="What is my name?\n")
    assert b"Anna" in done.stdout
    path = tmp_path / "prompt.toml"
    path.write_text(f"user = 'User'\nbot = 'Assistant'\ninit_prompt = '''{told}'''\n")
    assert b"Anna" in run("--prompt", path, stdin="What is my name?\n").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--load", "nothing"], 1, "no chat of that name"),
        (["--prompt", "nothing.py"], 1, "nothing.py cannot be read"),
        (["--state", "nothing.safetensors"], 1, "there is no such file"),
        (["--system", " "], 1, "the message is empty"),
        (["--max-tokens", "0"], 1, "max_tokens is 0"),
        (["--temperature", "-1"], 1, "temperature is -1"),
        (["--preset", "nonsense"], 2, "invalid choice"),
        (["--language", "xx"], 2, "'xx' is unknown"),
        (["--system", "a", "--load", "b"], 2, "not allowed with"),
    ],
)
def test_wrong_options_are_told(run, arguments, status, words, tmp_path):
    done = run("--chats", tmp_path, *arguments, stdin="Hello\n")
    assert done.returncode == status
    assert done.stdout == b""
    assert words in done.stderr.decode()


def test_a_state_of_another_model_is_refused(run, tmp_path, byte_model):
    byte_model.forward([1, 2])[1].save(tmp_path / "state.safetensors")
    done = run("--state", tmp_path / "state.safetensors", stdin="Hello\n")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"belongs to another model" in done.stderr


@pytest.mark.parametrize("language", ["zh", "Japanese"])
def test_other_languages(run, language, tmp_path):
    done = run("--chats", tmp_path, "--language", language, stdin="+help\n+nonsense\n")
    code = {"zh": "zh", "Japanese": "ja"}[language]
    spoken = wkv.chat.language_named(code)
    assert spoken.say("help_head") in done.stderr.decode()


def test_models_that_are_not_built_in_get_an_opening(run, tmp_path):
    path = tmp_path / "model.pth"
    save_pth(random_checkpoint("7", n_layer=1, n_embd=64, vocab_size=256), path)
    done = run(path, "--max-tokens", 1, "--seed", 1, stdin="hi\n+stats\n")
    opening = wkv.chat.language_named("en").prompt(wkv.chat.Template()).text
    seen = int(done.stderr.decode().split(" tokens in the model state")[0].rsplit(" ", 1)[1])
    assert seen >= len(opening) + len("User: hi\n\nAssistant:") + 1


def test_what_help_offers_is_what_there_is():
    assert set(PRESETS) == set(chat_command.PRESETS)
    assert set(LANGUAGES) == set(chat_command.LANGUAGES.values())
    for code, english in LANGUAGES.items():
        assert chat_command.LANGUAGES[english.lower()] == code
