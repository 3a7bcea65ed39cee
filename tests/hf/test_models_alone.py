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
from wkv.convert.huggingface.standalone import standalone_files
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
        suffix = f"rwkv{MODULES[generation]}"
        for name, source in standalone_files(suffix).items():
            (folder / name).write_text(source, encoding="utf-8")
        module = f"modeling_{suffix}"
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {
            "AutoConfig": f"configuration_{suffix}.{type(model.config).__name__}",
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


SUFFIXES = sorted({f"rwkv{number}" for number in MODULES.values()})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_standalone_code_is_valid_and_each_time_the_same(suffix):
    files = standalone_files(suffix)
    assert set(files) == {f"configuration_{suffix}.py", f"modeling_{suffix}.py"}
    assert files == standalone_files(suffix)
    for name, source in files.items():
        compile(source, name, "exec")
        assert "import wkv" not in source
        assert "from wkv" not in source
    assert "# From wkv.ops.wkv" in files[f"modeling_{suffix}.py"]


def test_standalone_code_of_nothing():
    with pytest.raises(FileNotFoundError):
        standalone_files("rwkv9")


READ_CONFIG = """
import sys
sys.modules["torch"] = None
from transformers import AutoConfig
print(AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True).num_hidden_layers)
assert not any(name.startswith("wkv") for name in sys.modules)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_config_can_be_read_without_torch(suffix, tmp_path):
    for name, source in standalone_files(suffix).items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    stem = suffix.replace("rwkv", "Rwkv" if suffix < "rwkv7" else "RWKV").replace("Rwkv4", "Rwkv")
    fields = {
        "model_type": f"not-known-{suffix}",
        "num_hidden_layers": 7,
        "auto_map": {"AutoConfig": f"configuration_{suffix}.{stem}Config"},
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", READ_CONFIG, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.strip() == "7", done.stderr


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_model_code_says_which_transformers_it_needs(suffix, tmp_path):
    for name, source in standalone_files(suffix).items():
        (tmp_path / name).write_text(source, encoding="utf-8")
    (tmp_path / "__init__.py").touch()
    old = "sys.modules['transformers'] = types.SimpleNamespace(__version__='4.57.1', __spec__=None)"
    code = f"import sys, types; {old}\nimport {tmp_path.name}.modeling_{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path.parent
    )
    assert done.stderr.strip().endswith(
        "ImportError: this model needs transformers 5.0 or newer, 4.57.1 is installed: "
        "pip install -U transformers"
    )


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
