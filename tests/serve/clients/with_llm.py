"""simonw's llm against a server: python with_llm.py BASE_URL."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import llm

MODELS = """\
- model_id: wkv
  model_name: test
  api_base: {address}/v1
  supports_schema: true
  supports_tools: true
- model_id: wkv-text
  model_name: test
  api_base: {address}/v1
  completion: true
"""


def run(folder, *arguments):
    environment = os.environ | {"LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main(address):
    assert llm.__name__
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "extra-openai-models.yaml"
        settings.write_text(MODELS.format(address=address))
        assert "wkv" in run(folder, "models")
        said = run(folder, "-m", "wkv", "Hello", "-o", "temperature", "0")
        assert said.startswith("Hello!"), said
        assert run(folder, "-m", "wkv", "Hello", "--no-stream", "-o", "temperature", "0") == said
        assert run(folder, "-c", "What is 2 + 2?", "-o", "max_tokens", "10")
        assert run(folder, "-m", "wkv-text", "Once", "-o", "max_tokens", "5")
        schema = run(
            folder, "-m", "wkv", "Ann is 30.", "--schema", "age int", "-o", "max_tokens", "99"
        )
        assert schema.strip().startswith("{"), schema


if __name__ == "__main__":
    main(sys.argv[1])
