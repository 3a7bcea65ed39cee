"""Adapters of wkv in peft, and adapters of peft in wkv, on models with the same weights."""

import pytest
import torch

import wkv
from tests.adapters.writers import pairs
from tests.checkpoints import save_pth
from tests.hf.translated import GENERATIONS, checkpoint, translate
from wkv.adapters.changes import LowRank, Miss
from wkv.adapters.peft_folder import AdapterBase, write_peft_folder

peft = pytest.importorskip("peft", reason="peft is not installed")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft with transformers 5

IDS = [5, 17, 3, 99, 42]
MODULES = ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value")


def logits_of(model):
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


@pytest.fixture
def path(generation, tmp_path):
    """Give the path of a model; `translate` gives the same model of transformers."""
    save_pth(checkpoint(generation), tmp_path / "m.pth")
    return tmp_path / "m.pth"


def cases(methods):
    """Give LoRA of every generation, and every method of RWKV-7."""
    return [(generation, "lora") for generation in GENERATIONS] + [("7", one) for one in methods]


@pytest.mark.parametrize(("generation", "method"), cases(["dora", "miss"]))
def test_a_folder_of_wkv_is_loaded_by_peft(generation, path, tmp_path, method):
    tensors = checkpoint(generation)
    changes = {}
    for module, (A, B) in pairs(tensors, MODULES).items():
        norms = tensors[f"{module}.weight"].norm(dim=1) * (0.8 + 0.4 * torch.rand(len(B)))
        change = LowRank(A, B, 2.5, norms if method == "dora" else None)
        changes[f"{module}.weight"] = (
            Miss(0.05 * torch.randn(4, len(B))) if method == "miss" else change
        )
    write_peft_folder(tmp_path / "adapter", changes, AdapterBase(generation, ""))
    expected = wkv.load(path, "cpu fp32", adapter=tmp_path / "adapter").forward(
        IDS, all_logits=True
    )[0]
    adapted = peft.PeftModel.from_pretrained(translate(generation), tmp_path / "adapter")
    found = logits_of(adapted)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    with adapted.disable_adapter():
        assert not torch.allclose(logits_of(adapted), expected, atol=1e-2)


TARGETS = {
    "r_proj", "k_proj", "v_proj", "o_proj", "receptance", "key", "value", "output",
}  # fmt: skip
SETTINGS = {
    "lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"key": 7}, "alpha_pattern": {"key": 3}},
}  # fmt: skip


@pytest.mark.parametrize(("generation", "method"), cases(["rslora", "dora", "patterns", "miss"]))
def test_an_adapter_that_peft_trained_is_used_by_wkv(generation, path, tmp_path, method):
    theirs = translate(generation)
    linear = [n for n, one in theirs.named_modules() if isinstance(one, torch.nn.Linear)]
    targets = sorted({name.split(".")[-1] for name in linear} & TARGETS)
    if method == "miss":
        config = peft.MissConfig(r=8, target_modules=targets)
    else:
        config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, **SETTINGS[method])
    adapted = peft.get_peft_model(theirs, config)
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], 0.03)
    ids = torch.tensor([IDS * 3])
    for _ in range(4):
        optimizer.zero_grad()
        adapted(ids, labels=ids).loss.backward()
        optimizer.step()
    expected = logits_of(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    for engine in ("auto", "torch"):
        model = wkv.load(path, "cpu fp32", engine=engine, adapter=tmp_path / "adapter")
        found, _ = model.forward(IDS, all_logits=True)
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    if method != "dora":
        model = wkv.load(path, "cpu fp32", adapters={"a": tmp_path / "adapter"})
        found, _ = model.forward(IDS, model.new_state(adapter="a"), all_logits=True)
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(
        found, wkv.load(path, "cpu fp32").forward(IDS, all_logits=True)[0], atol=1e-2
    )
