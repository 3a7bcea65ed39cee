"""The scripts of docs/preference-training.md run, and wkv uses the adapters that they write."""

import json
import re
from pathlib import Path

import pytest
import torch

import wkv
from wkv.cli import main
from wkv.demo import WEIGHTS

pytest.importorskip("trl", reason="trl is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # of trl, peft and accelerate

PAGE = Path(__file__).parents[2] / "docs" / "preference-training.md"
FEW = "report_to=[], use_cpu=True, max_steps=2, per_device_train_batch_size=2, output_dir="
HELLO = {"role": "user", "content": "Hello"}


def answer(text):
    return [{"role": "assistant", "content": text}]


FILES = {
    "chat.jsonl": {"messages": [HELLO, *answer("Aye, captain! Hello.")]},
    "pairs.jsonl": {"prompt": [HELLO], "chosen": answer("Aye!"), "rejected": answer("Hello.")},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with the files that the scripts read."""
    folder = tmp_path_factory.mktemp("trl")
    assert main(["convert", str(WEIGHTS), str(folder / "model"), "--to", "hf"]) == 0
    for name, line in FILES.items():
        (folder / name).write_text(f"{json.dumps(line)}\n" * 2)
    return folder


@pytest.mark.parametrize("kind", ["SFT", "DPO"])
def test_a_script_of_the_page(folder, monkeypatch, kind):
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [script] = [block for block in blocks if f"import {kind}Config" in block]
    script = script.replace(f"{kind}Config(", f"{kind}Config({FEW}", 1)
    exec(script.replace('"adapter"', f'"{kind}"'), {})
    plain, _ = wkv.load(folder / "model", "cpu fp32").forward([5, 6, 7])
    adapted, _ = wkv.load(folder / "model", "cpu fp32", adapter=folder / kind).forward([5, 6, 7])
    assert not torch.equal(plain, adapted)
