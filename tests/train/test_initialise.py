"""The initial weights."""

import math

import pytest
import torch

import wkv
from wkv.models.rwkv7 import RWKV7
from wkv.train.initialize import initialize, new_config
from wkv.train.initialize_older import initialize_older, older_config, older_network
from wkv.train.scratch import train
from wkv.train.settings import TrainingSettings
from wkv.train.text import text_job


@pytest.fixture(scope="module")
def model():
    model = RWKV7(new_config(vocab_size=300, n_layer=3, n_embd=128))
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    initialize(model, seed=1)
    return model


def test_every_tensor_gets_a_value(model):
    unset = [name for name, value in model.named_parameters() if not value.isfinite().all()]
    assert unset == []


def test_same_seed_gives_same_weights(model):
    other = RWKV7(model.config)
    initialize(other, seed=1)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)


def test_the_first_logits_do_not_depend_on_the_blocks(model):
    """Outputs start at zero, so the residual stream is the embedding alone."""
    ids = torch.tensor([[1, 2, 3, 250]])
    X, _ = model(ids, model.new_layers(1))
    torch.testing.assert_close(X, model.embed(ids))


@pytest.mark.parametrize(
    ("name", "gain"),
    [("att.receptance", 1), ("att.key", 0.1), ("att.value", 1), ("ffn.key", 1)],
)
def test_matrices_are_orthogonal(model, name, gain):
    weight = model.get_submodule(f"blocks.1.{name}").weight
    product = weight.mT @ weight
    torch.testing.assert_close(product, gain**2 * torch.eye(128), rtol=0, atol=1e-5)


def test_decay_runs_from_slow_to_fast(model):
    w0 = model.blocks[0].att.w0.flatten()
    assert w0[:64].mean() < w0[64:].mean() - 2
    assert w0.min() > -8.1


@pytest.mark.parametrize("generation", ["4", "5.2", "6"])
def test_older_generations_begin_as_their_scripts_do(generation):
    config = older_config(generation, vocab_size=300, n_layer=3, n_embd=128)
    model, other = older_network(config), older_network(config)
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    initialize_older(model, seed=1)
    initialize_older(other, seed=1)
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        assert torch.equal(other.state_dict()[name], value)
    ids = torch.tensor([[1, 2, 3, 250]])
    X, _ = model(ids, model.new_layers(1))
    torch.testing.assert_close(X, model.embed(ids))
    att = model.blocks[2].att
    decay = att.time_decay.detach().flatten()
    assert decay[0] == (-5 if generation == "4" else -6)
    assert decay[-1] == pytest.approx(3 if generation == "4" else -1)
    first_mix = att.time_maa_k if generation == "6" else att.time_mix_k
    half = (64 / 128) ** (1 / 3)
    expected = 1 - half if generation == "6" else half
    assert first_mix.detach().flatten()[64] == pytest.approx(expected)


@pytest.mark.parametrize("generation", ["4", "5.2", "6"])
def test_older_generations_are_trained(tmp_path, generation):
    data = tmp_path / "data.txt"
    data.write_text("The rain in Spain stays mainly in the plain.\n\n" * 60)
    settings = TrainingSettings(steps=25, context=32, rows=4, warmup=2, log_steps=1, compile=False,
                                learning_rate=1e-2)  # fmt: skip
    job = text_job(data, tmp_path / "run", settings, layers=1, width=64, vocab_size=300,
                   resume=False, generation=generation)  # fmt: skip
    assert train(job, lambda entry, progress: None, lambda message: None)
    losses = [entry["loss"]["prose"] for entry in job.folder.entries()]
    assert losses[-1] < 0.7 * losses[0]
    assert wkv.load(job.folder.model).config.generation == generation
