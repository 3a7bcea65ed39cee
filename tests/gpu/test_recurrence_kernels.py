"""The recurrences as kernels, in the modules of every generation: equal to the float64 oracles."""

from importlib import import_module

import numpy as np
import pytest
import torch

from tests.checkpoints import GENERATIONS
from tests.gpu.packed import random_network, rms

LIMIT = 2e-6


@pytest.mark.parametrize("generation", GENERATIONS)
def test_modules_with_kernels_equal_the_oracle(triton_interpreter, tmp_path, generation):
    from wkv.gpu.recurrences import use_kernels

    oracle = import_module(f"tests.oracles.rwkv{generation[0]}{generation[1:].strip('.012')}")
    network, tensors = random_network(tmp_path, "cpu fp32", generation)
    use_kernels(network)
    ids = torch.randint(0, 90, (2, 7), generator=torch.Generator().manual_seed(3))
    ids[1, 4:] = 0
    empty = network.new_layers(2)
    kept = [layer.wkv.clone() for layer in empty]
    X, layers = network(ids, empty, torch.tensor([7, 4]))  # padded
    Y, _ = network(ids[:, :1], layers)  # decode
    assert all(torch.equal(layer.wkv, old) for layer, old in zip(empty, kept, strict=True))
    exact = {name: tensor.numpy() for name, tensor in tensors.items()}
    for row, count in enumerate((7, 4)):
        tokens = [*ids[row, :count].tolist(), int(ids[row, 0])]
        expected = oracle.forward(exact, tokens)[0]
        found = torch.cat([network.logits(X)[row, :count], network.logits(Y)[row]])
        assert rms(found, np.asarray(expected)) <= LIMIT
