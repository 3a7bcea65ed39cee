"""Strategies against the `rwkv` package: allocation, int8, and the files that it converted."""

import numpy as np
import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.parity.package import INSTALLED, Call, Question, package_answers
from tests.parity.package_strategies import ask

pytestmark = pytest.mark.skipif(not INSTALLED, reason="the rwkv package is not installed")

IDS = np.random.default_rng(3).integers(0, 300, 60).tolist()
OLD = ("4", "5.0", "5.1", "5.2", "6")  # the package's 7 knows one device and one dtype
STRATEGIES = (
    "cpu fp32 *1 -> cpu fp32",
    "cpu fp32 -> cpu bf16",
    "cpu fp32 -> cpu bf16 *1",
    "cpu fp32i8 *1 -> cpu bf16 *1",
    "cpu fp32 *9 -> cpu bf16",
    "cpu fp32 *2+ -> cpu bf16",
    "cpu fp32 *1 -> cpu bf16 *1+ -> cpu fp32i8 *1",
    "cpu bf16i8 -> cpu fp32 -> cpu bf16",
    "cpu bf16 *0+",
)


def test_layers_lie_where_the_package_puts_them(checkpoint_paths):
    answers = ask([(checkpoint_paths["6"], text) for text in STRATEGIES])
    for text, expected in zip(STRATEGIES, answers, strict=True):
        layers = wkv.load(checkpoint_paths["6"], text).strategy.layers
        found = [
            [
                str(layer.device),
                str(layer.dtype),
                "torch.uint8" if layer.quantized else str(layer.dtype),
                layer.streamed,
            ]
            for layer in layers
        ]
        assert found == expected, text


@pytest.fixture(scope="module")
def int8(checkpoint_paths):
    """Give the package's logits in int8, as a sequence and one by one."""
    calls = [Call(IDS), Call(IDS, one_by_one=True)]
    questions = [Question(str(checkpoint_paths[g]), g, calls, "cpu fp32i8") for g in OLD]
    return dict(zip(OLD, package_answers(questions), strict=True))


@pytest.mark.parametrize("generation", OLD)
def test_int8_equals_the_packages(checkpoint_paths, int8, generation):
    model = wkv.load(checkpoint_paths[generation], "cpu fp32i8")
    together, _ = model.forward(IDS, all_logits=True)
    state, rows = None, []
    for token in IDS:
        row, state = model.forward([token], state)
        rows.append(row)
    sequence, one_by_one = int8[generation]
    assert np.abs(together.numpy() - sequence.logits).max() <= 1e-4
    assert np.abs(torch.stack(rows).numpy() - one_by_one.logits).max() <= 1e-4


@pytest.fixture(scope="module")
def converted(checkpoint_paths, tmp_path_factory):
    """Give files that the package converted, by generation and strategy."""
    folder = tmp_path_factory.mktemp("converted")
    strategies = ("cpu fp32", "cpu fp32i8", "cpu bf16", "cuda fp16i8 *1 -> cpu fp32")
    tasks = {
        (g, text): (checkpoint_paths[g], folder / f"{g}-{number}.pth", text)
        for g in OLD
        for number, text in enumerate(strategies)
    }
    ask(conversions=tasks.values())
    tuned = random_checkpoint("6")
    for layer in range(3):
        tuned[f"blocks.{layer}.att.time_state"] = torch.randn(4, 32, 32)
    save_pth(tuned, folder / "tuned.pth")
    rescaled = {g: (checkpoint_paths[g], folder / f"{g}-rescaled.pth", "cpu fp32") for g in OLD}
    rescaled["tuned"] = (folder / "tuned.pth", folder / "tuned-rescaled.pth", "cpu fp32i8")
    ask(conversions=rescaled.values(), environment={"RWKV_RESCALE_LAYER": "1"})
    return {key: task[1] for key, task in {**tasks, **rescaled}.items()}


@pytest.mark.parametrize("generation", OLD)
def test_files_that_chatrwkv_converted_are_read(
    checkpoint_paths, models, int8, converted, generation
):
    expected, _ = models[generation].forward(IDS, all_logits=True)
    model = wkv.load(converted[generation, "cpu fp32"])
    assert str(model.strategy) == "cpu fp32"
    assert (model.forward(IDS, all_logits=True)[0] - expected).abs().max() < 2e-5
    found, _ = wkv.load(converted[generation, "cpu fp32i8"]).forward(IDS, all_logits=True)
    assert np.abs(found.numpy() - int8[generation][0].logits).max() <= 1e-4
    rounded, _ = wkv.load(checkpoint_paths[generation], "cpu bf16").forward(IDS, all_logits=True)
    found, _ = wkv.load(converted[generation, "cpu bf16"]).forward(IDS, all_logits=True)
    assert (found - expected).abs().max() < 2 * (rounded - expected).abs().max() + 0.05


@pytest.mark.parametrize("generation", OLD)
def test_rescaled_files_are_turned_back(models, converted, generation):
    expected, _ = models[generation].forward(IDS, all_logits=True)
    found, _ = wkv.load(converted[generation]).forward(IDS, all_logits=True)
    assert (found - expected).abs().max() < 2e-5


def test_a_converted_tuned_state_and_rescaled_int8_are_read(converted):
    source = converted["tuned"].with_name("tuned.pth")
    expected, _ = wkv.load(source, "cpu fp32i8").forward(IDS, all_logits=True)
    found, _ = wkv.load(converted["tuned"]).forward(IDS, all_logits=True)
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("generation", OLD)
def test_a_file_for_an_absent_device_says_so(converted, generation):
    if torch.cuda.is_available():
        assert wkv.load(converted[generation, "cuda fp16i8 *1 -> cpu fp32"]).forward(IDS)
        return
    path = converted[generation, "cuda fp16i8 *1 -> cpu fp32"]
    with pytest.raises(wkv.StrategyError, match="PyTorch sees 0 CUDA devices"):
        wkv.load(path)
    model = wkv.load(path, "cpu fp32i8 *1 -> cpu fp32")
    assert model.forward(IDS)[0].isfinite().all()
