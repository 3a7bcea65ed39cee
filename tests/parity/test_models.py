"""wkv's models against the float64 oracles, the `rwkv` package and the tiny trained models."""

import json

import numpy as np
import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.oracles import oracle
from tests.parity.package import INSTALLED, Call, Question, package_answers
from wkv.native import library

TOLERANCE = {"4": 2e-5, "5.0": 2e-5, "5.1": 2e-5, "5.2": 2e-5, "6": 2e-5, "7": 1e-4, "7a": 1e-4}
IDS = np.random.default_rng(1).integers(0, 300, 150).tolist()
SPLIT = 41


@pytest.fixture(scope="module", params=["native", "torch"])
def models(checkpoint_paths, request):
    """Give a model of each generation on each engine that has it."""
    if request.param == "native" and library.missing_reason() is not None:
        pytest.skip(library.missing_reason())
    return {
        name: wkv.load(path, "cpu fp32", engine="auto" if name == "7a" else request.param)
        for name, path in checkpoint_paths.items()
    }


@pytest.fixture(scope="module")
def truths(checkpoint_paths):
    """Give each oracle's logits and final state on IDS."""
    return {name: oracle(name)(_arrays(path), IDS) for name, path in checkpoint_paths.items()}


@pytest.fixture(scope="module")
def package(checkpoint_paths):
    """Give the package's logits on IDS, one by one and as a sequence."""
    if not INSTALLED:
        pytest.skip("the rwkv package is not installed")
    calls = [Call(IDS, one_by_one=True), Call(IDS)]
    questions = [Question(str(path), name, calls) for name, path in checkpoint_paths.items()]
    return dict(zip(checkpoint_paths, package_answers(questions), strict=True))


def _arrays(path):
    return {name: tensor.numpy() for name, tensor in torch.load(path).items()}


def _one_by_one(model):
    state, logits = None, []
    for token in IDS:
        after, state = model.forward([token], state)
        logits.append(after)
    return torch.stack(logits).numpy(), state


@pytest.mark.parametrize("generation", GENERATIONS)
def test_forward_equals_oracle_as_sequence_and_continued(models, truths, generation):
    model, (truth, _) = models[generation], truths[generation]
    whole, _ = model.forward(IDS, all_logits=True)
    first, state = model.forward(IDS[:SPLIT], all_logits=True)
    rest, _ = model.forward(IDS[SPLIT:], state, all_logits=True)
    assert np.abs(whole.numpy() - truth).max() <= TOLERANCE[generation]
    assert np.abs(torch.cat([first, rest]).numpy() - truth).max() <= TOLERANCE[generation]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_forward_equals_oracle_one_by_one_with_its_state(models, truths, generation):
    truth, true_layers = truths[generation]
    logits, state = _one_by_one(models[generation])
    assert np.abs(logits - truth).max() <= TOLERANCE[generation]
    for layer, true in zip(state.layers, true_layers, strict=True):
        scale = max(1.0, np.abs(true["wkv"]).max())
        assert np.abs(layer.wkv[0].numpy() - true["wkv"]).max() <= TOLERANCE[generation] * scale
        assert np.abs(layer.att_shift[0].numpy() - true["att_shift"]).max() <= 1e-4
        assert np.abs(layer.ffn_shift[0].numpy() - true["ffn_shift"]).max() <= 1e-4


@pytest.mark.parametrize("generation", GENERATIONS)
def test_forward_equals_the_rwkv_package(models, package, generation):
    one_by_one, sequence = package[generation]
    logits, _ = _one_by_one(models[generation])
    assert np.abs(logits - one_by_one.logits).max() <= TOLERANCE[generation]
    whole, _ = models[generation].forward(IDS, all_logits=True)
    assert np.abs(whole.numpy() - sequence.logits).max() <= TOLERANCE[generation]


@pytest.mark.parametrize("generation", ["5.0", "5.1", "5.2", "6", "7"])
def test_group_norm_eps_is_passed_on(tmp_path, checkpoint_paths, generation):
    model = wkv.load(checkpoint_paths[generation], "cpu fp32", group_norm_eps=1e-5)
    arrays = _arrays(checkpoint_paths[generation])
    truth, _ = oracle(generation)(arrays, IDS[:20], group_norm_eps=1e-5)
    usual, _ = oracle(generation)(arrays, IDS[:20])
    logits, _ = model.forward(IDS[:20], all_logits=True)
    difference = np.abs(logits.numpy() - truth).max()
    assert difference <= 3e-4
    assert difference < 0.1 * np.abs(logits.numpy() - usual).max()


@pytest.mark.parametrize("generation", ["5.2", "6"])
def test_tuned_initial_state_is_where_the_model_begins(tmp_path, generation):
    tensors = random_checkpoint(generation)
    for layer in range(3):
        tensors[f"blocks.{layer}.att.time_state"] = 0.3 * torch.randn(4, 32, 32)
    save_pth(tensors, tmp_path / "tuned.pth")
    truth, _ = oracle(generation)({k: v.numpy() for k, v in tensors.items()}, IDS[:20])
    logits, _ = wkv.load(tmp_path / "tuned.pth", "cpu fp32").forward(IDS[:20], all_logits=True)
    assert np.abs(logits.numpy() - truth).max() <= 2e-5


@pytest.mark.parametrize("generation", ["4", "5.2", "6", "7"])
def test_attention_width_may_differ_from_the_embedding(tmp_path, generation):
    """A = 64, D = 128: take the first two heads of a random model."""
    tensors = random_checkpoint(generation)
    width, heads = 64, 2
    for name, tensor in tensors.items():
        part = name.split(".", 2)[-1]
        if not part.startswith("att."):
            continue
        inputs = ("att.x_", "att.time_mix", "att.time_maa")
        if part == "att.output.weight":
            tensors[name] = tensor[:, :width].contiguous()
        elif part.startswith(inputs) or part.endswith((".w1", ".a1", ".v1", ".g1", "decay_w1")):
            continue
        elif part.endswith((".w2", ".a2", ".v2", ".g2", "decay_w2")) or tensor.dim() == 3:
            tensors[name] = tensor[..., :width].contiguous()
        elif tensor.shape[0] == 4:
            tensors[name] = tensor[:heads].contiguous()
        else:
            tensors[name] = tensor[:width].contiguous()
    save_pth(tensors, tmp_path / "narrow.pth")
    truth, _ = oracle(generation)({k: v.numpy() for k, v in tensors.items()}, IDS[:20])
    model = wkv.load(tmp_path / "narrow.pth", "cpu fp32")
    assert model.config.dim_att == width
    logits, _ = model.forward(IDS[:20], all_logits=True)
    assert np.abs(logits.numpy() - truth).max() <= TOLERANCE[generation]


@pytest.mark.parametrize("name", ["tiny-rwkv4", "tiny-rwkv7"])
def test_tiny_trained_models_give_their_makers_logits(shared_data, name):
    folder = shared_data / "checkpoints"
    expected = json.loads((folder / f"{name}.expected.json").read_text())
    model = wkv.load(folder / f"{name}.pth", "cpu fp32")
    logits, _ = model.forward(expected["tokens"])
    assert np.abs(logits.numpy() - np.array(expected["logits"])).max() <= 1e-5
    assert model.tokenizer.encode("in") == [105, 110]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_bfloat16_is_as_near_as_the_rounding_of_its_weights(checkpoint_paths, truths, generation):
    model = wkv.load(checkpoint_paths[generation], "cpu bf16")
    logits, state = model.forward(IDS, all_logits=True)
    error = logits.numpy() - truths[generation][0]
    assert logits.dtype == torch.float32
    assert all(layer.wkv.dtype == torch.float32 for layer in state.layers)
    assert np.sqrt((error**2).mean()) < 0.1
