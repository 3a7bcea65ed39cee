"""Clients that people use, each in its own script; those that are installed here are run."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "clients"
CLIENTS = {
    "langchain": "langchain_openai",
    "instructor": "instructor",
    "llm": "llm",
    "litellm": "litellm",
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_gets_what_it_asks_for(served, name):
    if importlib.util.find_spec(CLIENTS[name]) is None:
        pytest.skip(f"{CLIENTS[name]} is not installed")
    script = FOLDER / f"with_{name}.py"
    done = subprocess.run(
        [sys.executable, script, served[0]], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr
