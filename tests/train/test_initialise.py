"""The initial weights."""

import math

import pytest
import torch

from wkv.models.rwkv7 import RWKV7
from wkv.train.initialize import initialize, new_config


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
