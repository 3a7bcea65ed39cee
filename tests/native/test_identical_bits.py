"""A pass of several rows gives the bits of passes of one row: logits and states, on all kernels."""

import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.checkpoint.weights import Weights
from wkv.inference.describe import describe
from wkv.inference.load import strategy_for
from wkv.native import library
from wkv.native.network import LAYERS, NativeNetwork

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)

KERNELS = library.kernels() if library.missing_reason() is None else ()
SIZES = {
    "small": {},
    "odd": {"n_embd": 96, "head_size": 16, "n_ffn": 344, "vocab_size": 301, "n_layer": 2},
    "wide": {"n_embd": 1088, "head_size": 64, "n_ffn": 2080, "vocab_size": 260, "n_layer": 1},
}
TOKENS = 17
ALIVE = {"small": 1.0, "odd": 0.6, "wide": 0.24}
"""Share of hidden units that are not always zero; half of these are zero after a squared ReLU.

So one row of "odd" skips zeros and several rows do not, and any few rows of "wide" skip zeros.
"""


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Give a function from generation and size to the path of a checkpoint."""
    folder, made = tmp_path_factory.mktemp("bits"), {}

    def path(generation, size):
        if (generation, size) not in made:
            made[generation, size] = folder / f"{generation}-{size}.pth"
            tensors = random_checkpoint(generation, **SIZES[size])
            shuffle = torch.Generator().manual_seed(3)
            for name, tensor in tensors.items():
                if name.endswith("ffn.key.weight"):
                    tensor[int(ALIVE[size] * len(tensor)) :] = 0
                    tensor[:] = tensor[torch.randperm(len(tensor), generator=shuffle)]
            save_pth(tensors, made[generation, size])
        return made[generation, size]

    return path


def _network(path, format, kernels):
    description = describe(path)
    strategy = strategy_for(description, f"cpu {format}")
    weights = Weights(description.checkpoint, description.shapes, strategy)
    return NativeNetwork(description.config, weights, kernels=kernels, threads=2)


def _parts(layers):
    return [part for one in layers for part in (one.att_shift, one.wkv, one.ffn_shift)]


def _equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(_parts(left), _parts(right), strict=True))


CASES = [(size, name) for size in SIZES for name in KERNELS if size != "wide" or name != "plain"]


@pytest.mark.parametrize(("size", "kernels"), CASES)
@pytest.mark.parametrize("format", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("generation", LAYERS)
def test_rows_together_give_the_bits_of_rows_alone(paths, generation, format, size, kernels):
    network = _network(paths(generation, size), format, kernels)
    ids = torch.randint(0, 260, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    states, rows = [network.new_layers(1)], []
    for token in ids.T:
        X, layers = network(token[None], states[-1])
        rows.append(network.logits(X)[0])
        states.append(layers)
    alone = torch.cat(rows)
    for count in (2, 3, 4, 5, 6, 7, 8, 9, 16, 17):
        X, layers = network(ids[:, :count], states[0])
        assert torch.equal(network.logits(X)[0], alone[:count]), count
        assert _equal(layers, states[count]), count
    # The same tokens as rows of a batch, each after a state of its own.
    together = wkv.State.stack(
        [wkv.State(layers, (0,), generation, "") for layers in states[:-1]]
    ).layers
    X, layers = network(ids.T, together)
    assert torch.equal(network.logits(X)[:, 0], alone)
    for row in range(TOKENS):
        after = wkv.State(layers, (0,) * TOKENS, generation, "").rows([row]).layers
        assert _equal(after, states[row + 1])
