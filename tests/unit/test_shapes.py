"""The table of shapes of each generation is that of its PyTorch network."""

import pytest
import torch

from tests.checkpoints import GENERATIONS, random_checkpoint
from wkv.models import GENERATIONS as TABLE
from wkv.models import read_config


@pytest.mark.parametrize("generation", GENERATIONS)
def test_shapes_are_those_of_the_network(generation):
    tensors = random_checkpoint(generation)
    config = read_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    with torch.device("meta"):
        network = TABLE[config.generation].network(config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert TABLE[config.generation].tensor_shapes(config) == expected
