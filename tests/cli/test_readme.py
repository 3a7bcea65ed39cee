"""The README tells the truth: its Python runs, and so do the commands that need no file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import wkv
from wkv.cli import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"^    ((?:wkv|echo) .*)$", README, re.MULTILINE)


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    exec(compile(code, "README.md", "exec"), {})
    assert "demo model" in capsys.readouterr().out


@pytest.mark.parametrize("line", LINES)
def test_the_commands_run(line, tmp_path, byte_model):
    line = line.replace("model.pth", str(byte_model.path)).replace("wkv ", f"{PREFIX} ")
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout


PREFIX = f"{sys.executable} -m wkv"


def test_every_command_is_told():
    for command in COMMANDS:
        assert f"`wkv {command}" in README


def test_the_conversation_is_what_the_model_says():
    prompt = "User: What is 27 + 48?\n\nAssistant:"
    greedy = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
    done = wkv.generate(wkv.load(), prompt, sampling=greedy, stop="\n\n")
    assert done.text.strip() in README
