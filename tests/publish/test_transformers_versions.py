"""Exported directories under the installed transformers; `make test-transformers` runs this file
under the oldest and the newest version."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS
from tests.hf.translated import random_ids, translate
from wkv.cli import main
from wkv.convert.huggingface.export import export
from wkv.hf.cache import CACHE_NAME, CACHE_NAMES, RwkvCache
from wkv.version import TESTED_TRANSFORMERS

QUESTION = "User: What is 27 + 48?\n\nAssistant:"

ALONE = """
import sys
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

class NoWkv:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "wkv":
            raise ImportError("wkv is not at hand")

sys.meta_path.insert(0, NoWkv())
torch.set_num_threads(1)
GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}

def recomputed(model, ids):
    for _ in range(6):
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids

for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.arange(3, 25).view(2, 11) * 7 % 300
    expected = recomputed(model, ids)
    assert torch.equal(model.generate(ids, **GREEDY), expected), folder
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    batch = model.generate(ids, attention_mask=mask, **GREEDY)
    assert torch.equal(batch[0, 4:], recomputed(model, ids[:1, 4:])[0]), folder
    assert torch.equal(batch[1], expected[1]), folder
    beams = {**GREEDY, "num_beams": 3}
    assert torch.equal(model.generate(ids, **beams), model.generate(ids, use_cache=False, **beams))
    first = model.generate(ids, return_dict_in_generate=True, **GREEDY)
    cache = {sys.argv[1]: first[sys.argv[1]]}
    longer = torch.cat([first.sequences, ids[:, :3]], dim=1)
    assert torch.equal(model.generate(longer, **cache, **GREEDY), recomputed(model, longer)), folder
    settings = TrainingArguments(
        folder + "/out", max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2,
        report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
    )
    rows = [{"input_ids": row, "labels": row} for row in ids]
    loss = lambda: float(model(ids, labels=ids).loss)
    before = loss()
    Trainer(model, settings, train_dataset=rows).train()
    model.eval()
    assert loss() < before, folder
assert "wkv" not in sys.modules
"""


@pytest.fixture(scope="module")
def built_in(tmp_path_factory):
    return export(wkv.load().path, tmp_path_factory.mktemp("built-in") / "model").path


def alone(code, *arguments, folder):
    """Run code in a process that has no terminal."""
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    environment["OMP_NUM_THREADS"] = "1"  # a second thread only waits on a busy machine
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip


def test_directories_generate_and_train_where_there_is_no_wkv(checkpoint_paths, tmp_path):
    folders = []
    for generation in GENERATIONS:
        folders.append(tmp_path / f"rwkv{generation}")
        export(checkpoint_paths[generation], folders[-1])
    done = alone(ALONE, CACHE_NAME, *folders, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_usage_on_the_card_answers_and_asks_nothing(built_in, tmp_path):
    card = (built_in / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("DIR", str(built_in))
    for version in TESTED_TRANSFORMERS:
        assert version in card
    code = code.replace("User: Hello\\n\\nAssistant:", QUESTION.replace("\n", "\\n"))
    done = alone(
        code.replace("**inputs", "**inputs, do_sample=False, max_new_tokens=24"), folder=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "27 + 48 = 75" in done.stdout
    assert "y/N" not in done.stdout + done.stderr
    assert "custom code" not in done.stdout + done.stderr


def test_the_end_of_text_is_learned_and_padding_is_not(tmp_path):
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    from wkv.convert.huggingface.tokenizer_files import write_tokenizer
    from wkv.hf.tokenizer import RWKVTokenizer

    write_tokenizer(tmp_path / "world")
    for tokenizer in (AutoTokenizer.from_pretrained(tmp_path / "world"), RWKVTokenizer()):
        assert tokenizer.pad_token_id == 65535
        collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        batch = collate([{"input_ids": [33155, 0]}, {"input_ids": [33155, 40213, 0]}])
        assert batch["labels"].tolist() == [[-100, 33155, 0], [33155, 40213, 0]]


def test_the_built_in_model_pads_with_a_byte_that_no_text_contains(built_in):
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling

    from wkv.hf.tokenizer import RWKVTokenizer

    entries = wkv.load().tokenizer.entries
    text = "".join(map(chr, range(0x20, 0x250))) + "\U0010ffff<|endoftext|>"
    for file in ("config.json", "generation_config.json"):
        assert json.loads((built_in / file).read_text())["pad_token_id"] == 256
    for kind in (AutoTokenizer, RWKVTokenizer):
        tokenizer = kind.from_pretrained(built_in, trust_remote_code=False)
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (256, 0)
        assert len(tokenizer) == 2048
        assert entries[256] == b"\xff"
        assert tokenizer(text).input_ids == wkv.load().tokenizer.encode(text)
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        batch = collate([{"input_ids": [5, 0]}, {"input_ids": [5, 7, 0]}])
        assert batch["labels"].tolist() == [[-100, 5, 0], [5, 7, 0]]
    assert wkv.load(built_in).tokenizer.entries == entries


def test_arguments_that_nobody_knows_are_refused():
    model, ids = translate("7"), random_ids(1, 5)
    with pytest.raises(TypeError, match="RWKV7Model does not know the argument kv_cache"):
        model(ids, kv_cache=RwkvCache())
    with pytest.raises(TypeError, match="does not know the argument head_mask"):
        model.base_model(ids, head_mask=torch.ones(1))
    with pytest.raises(ValueError, match="output_attentions is true"):
        model(ids, output_attentions=True)
    accepted = {"kv_cache": None, "output_attentions": False, "cache_position": torch.arange(5)}
    with torch.no_grad():
        expected = model(ids).logits
        assert torch.equal(model(ids, **accepted).logits, expected)
        assert torch.equal(model(ids, position_ids=torch.arange(5)[None]).logits, expected)


def test_both_names_of_a_cache_work_and_one_at_a_time():
    model, ids = translate("5.2"), random_ids(1, 9)
    with torch.no_grad():
        expected = model(ids).logits[:, 5:]
        before = model(ids[:, :5])[CACHE_NAME]
        for name in CACHE_NAMES:
            assert torch.allclose(model(ids[:, 5:], **{name: before}).logits, expected, atol=1e-5)
    with pytest.raises(ValueError, match="two names of one argument"):
        model(ids, cache=before, past_key_values=before.clone())


def test_a_version_that_drops_the_cache_is_an_error_and_not_garbage(monkeypatch):
    model = translate("7")
    update = model._update_model_kwargs_for_generation

    def dropping(outputs, model_kwargs, **options):
        before = model_kwargs[CACHE_NAME]
        return update(outputs, model_kwargs, **options) | {CACHE_NAME: before}

    monkeypatch.setattr(model, "_update_model_kwargs_for_generation", dropping)
    with pytest.raises(RuntimeError, match="dropped the state of earlier tokens"):
        model.generate(random_ids(1, 5), max_new_tokens=3, do_sample=False)


def test_a_directory_of_an_earlier_version_is_repaired(built_in, tmp_path, capsys):
    old = tmp_path / "old"
    old.mkdir()
    for file in built_in.iterdir():
        (old / file.name).write_bytes(file.read_bytes())
    (old / "modeling_rwkv7.py").write_text("raise ImportError('of an earlier version')\n")
    fields = json.loads((old / "generation_config.json").read_text())
    (old / "generation_config.json").write_text(json.dumps(fields | {"pad_token_id": 7}))
    assert main(["convert", str(old), str(tmp_path / "new"), "--to", "hf"]) == 0
    out = capsys.readouterr().out
    assert "changed: modeling_rwkv7.py: updated, for transformers 5.0.0 to" in out
    assert "changed: generation_config.json: pad_token_id 7 -> 256" in out
    assert (tmp_path / "new/modeling_rwkv7.py").read_bytes() == (
        built_in / "modeling_rwkv7.py"
    ).read_bytes()


def test_an_untested_version_is_reported(monkeypatch, caplog):
    import transformers
    from transformers.utils import logging

    monkeypatch.setattr(transformers, "__version__", "5.99.0")
    logging.warning_once.cache_clear()
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    translate("4")
    assert "5.99.0 is installed" in caplog.text


def test_the_declared_range_begins_at_the_oldest_tested_version():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    declared = tomllib.loads(text)["project"]["optional-dependencies"]["hf"]
    assert declared[0].startswith("transformers>=")
    oldest = declared[0].removeprefix("transformers>=").split(".")
    assert TESTED_TRANSFORMERS[0].split(".")[: len(oldest)] == oldest


def test_exports_of_world_models_pad_with_an_unused_id(tmp_path):
    from tests.checkpoints import random_checkpoint, save_pth

    path = tmp_path / "world.pth"
    save_pth(random_checkpoint("7", n_layer=1, n_embd=32, head_size=16, vocab_size=65536), path)
    done = export(path, tmp_path / "model")
    for file in ("config.json", "generation_config.json"):
        assert json.loads((done.path / file).read_text())["pad_token_id"] == 65535
    fields = json.loads((done.path / "tokenizer_config.json").read_text())
    assert fields["pad_token"] == fields["added_tokens_decoder"]["65535"]["content"]
