"""Code that stands alone beside a checkpoint, the launcher, and life without transformers."""

import json
import os
import subprocess
import sys
import types

import pytest
import torch
import transformers

import wkv.hf
from tests.hf.translated import GENERATIONS, random_ids
from wkv.convert.huggingface.standalone import standalone_source
from wkv.errors import MissingExtraError
from wkv.hf import launcher

MODULES = {"4": "4", "5.0": "5", "5.1": "5", "5.2": "5", "6": "6", "7": "7", "7a": "7a"}

ALONE = """
import sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

class NoWkv:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "wkv":
            raise ImportError("wkv is not at hand")

sys.meta_path.insert(0, NoWkv())
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.load(folder + "/ids.pt")
    with torch.no_grad():
        logits = model(ids, attention_mask=torch.load(folder + "/mask.pt")).logits
    found = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    torch.save((logits, found), folder + "/found.pt")
    model.save_pretrained(folder + "/again")
    again = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
assert "wkv" not in sys.modules
"""


def test_the_code_of_a_folder_stands_alone(their_models, tmp_path):
    ids = random_ids(2, 40)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    folders = {}
    for generation in ("4", "5.0", "5.2", "6", "7", "7a"):
        model = their_models[generation]
        folder = folders[generation] = tmp_path / generation.replace(".", "")
        model.save_pretrained(folder)
        module = f"modeling_rwkv{MODULES[generation]}"
        (folder / f"{module}.py").write_text(standalone_source(module), encoding="utf-8")
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {
            "AutoConfig": f"{module}.{type(model.config).__name__}",
            "AutoModel": f"{module}.{type(model.base_model).__name__}",
            "AutoModelForCausalLM": f"{module}.{type(model).__name__}",
        }
        (folder / "config.json").write_text(json.dumps(config))
        torch.save(ids, folder / "ids.pt")
        torch.save(mask, folder / "mask.pt")
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, folders.values())],
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    for generation, folder in folders.items():
        logits, found = torch.load(folder / "found.pt")
        model = their_models[generation]
        with torch.no_grad():
            assert torch.equal(logits, model(ids, attention_mask=mask).logits)
        expected = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert torch.equal(found, expected)


@pytest.mark.parametrize("module", sorted({f"modeling_rwkv{m}" for m in MODULES.values()}))
def test_standalone_code_is_one_valid_module_each_time_the_same(module):
    source = standalone_source(module)
    assert source == standalone_source(module)
    compile(source, module, "exec")
    assert "import wkv" not in source
    assert "from wkv" not in source
    assert "# From wkv.ops.wkv" in source


def test_standalone_code_of_nothing():
    with pytest.raises(FileNotFoundError):
        standalone_source("modeling_rwkv9")


def test_the_launcher_runs_transformers_commands_with_our_classes(monkeypatch):
    seen = {}
    for _, _, ours in wkv.hf.CLASSES:  # noted, to be put back
        before = getattr(transformers, ours.__name__, None)
        monkeypatch.setattr(transformers, ours.__name__, before, raising=False)

    def commands():
        seen.update({m.__name__: getattr(transformers, m.__name__) for _, _, m in wkv.hf.CLASSES})

    stand_in = types.SimpleNamespace(main=commands)
    monkeypatch.setitem(sys.modules, "transformers.cli.transformers", stand_in)
    launcher.main()
    assert seen == {m.__name__: m for _, _, m in wkv.hf.CLASSES}
    monkeypatch.setitem(sys.modules, "transformers.cli.transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'transformers\[serving\]'"):
        launcher.main()


ABSENT = "sys.modules['transformers'] = None"
OLD = "sys.modules['transformers'] = types.SimpleNamespace(__version__='4.40.1', __spec__=None)"


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (ABSENT, "needs transformers, which is not installed: pip install -U 'wkv[hf]'"),
        (OLD, "needs transformers 5.0 or newer, 4.40.1 is installed: pip install -U 'wkv[hf]'"),
    ],
)
def test_without_transformers_it_says_what_to_do(put, message):
    code = f"import sys, types; {put}\nimport wkv.hf"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"MissingExtraError: wkv.hf {message}" in done.stderr


def test_every_generation_has_a_file():
    assert set(MODULES) == set(GENERATIONS)
