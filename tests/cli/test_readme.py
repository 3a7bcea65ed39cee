"""The READMEs tell the truth: their Python runs, and so do the commands that need no network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.cli import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"^    ((?:wkv|echo|printf|make) .*)$", re.MULTILINE)
LINES = [line for line in re.findall(COMMAND, README) if not line.startswith("make")]
LOCAL = [line for line in LINES if "g1:" not in line and "wkv serve" not in line]
SERVERS = [line.split("#")[0] for line in LINES if "g1:" not in line and "wkv serve" in line]
PREFIX = f"{sys.executable} -m wkv"


def test_the_python_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_pth(random_checkpoint("7", n_layer=1, n_embd=32, vocab_size=65536), "model.pth")
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 2
    for code in examples:
        exec(compile(code, "README.md", "exec"), {})
    assert "demo model" in capsys.readouterr().out


@pytest.mark.parametrize("line", LOCAL)
def test_the_commands_run(line, tmp_path, byte_model, exported_bytes):
    if "DIR" in line and "--to hf" not in line:
        line = line.replace("DIR", str(exported_bytes))
    line = line.replace("model.pth", str(byte_model.path)).replace("wkv ", f"{PREFIX} ")
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=120, input=b"Hi\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", SERVERS)
def test_the_servers_start_and_stop(line):
    pytest.importorskip("fastapi")
    command = [sys.executable, "-m", *line.split(), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        said = [server.stdout.readline() for _ in range(4)]
        server.terminate()
        server.communicate(timeout=60)
    assert server.returncode == 0
    assert [words.split()[0] for words in said] == ["serving", "chat", "API", "try"]


@pytest.fixture(scope="module")
def exported_bytes(tmp_path_factory):
    """Give a Hugging Face directory of a random RWKV-7 whose ids are bytes."""
    from wkv.convert.huggingface.export import export

    folder = tmp_path_factory.mktemp("exported")
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256), folder / "bytes.pth")
    return export(folder / "bytes.pth", folder / "DIR").path


def test_every_command_is_told():
    for command in COMMANDS:
        assert f"`wkv {command}" in README


def test_every_command_of_the_chat_is_told():
    from wkv.chat import COMMANDS as SAID

    for command in SAID:
        assert not command or command in README, command


def test_the_conversation_is_what_the_model_says():
    prompt = "User: What is 27 + 48?\n\nAssistant:"
    greedy = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
    done = wkv.generate(wkv.load(), prompt, sampling=greedy, stop="\n\n")
    assert done.text.strip() in README


def _facts(text):
    """What must be the same in every language."""
    return {
        "headings": [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)],
        "names": sorted(set(re.findall(r"`[^`\n]+`", text))),
        "commands": [line.split("  #")[0].rstrip() for line in re.findall(COMMAND, text)],
        "code": re.findall(r"```python\n(.*?)```", re.sub(r" *# .*", "", text), re.DOTALL),
        "tables": [line.count("|") for line in text.splitlines() if line.startswith("|")],
        "figures": re.findall(r"\d+\.\d+", text),
    }


def test_both_languages_say_the_same():
    english, chinese = _facts(README), _facts(CHINESE)
    for kind, ours in english.items():
        assert chinese[kind] == ours, kind
