"""The number of kernels that a GPU launches for a layer, counted on the meta device.

At batch 1 a GPU waits for the host, which needs 4 to 5 microseconds for each launch. So the limits
below may only decrease.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.checkpoints import GENERATIONS, random_checkpoint
from wkv.models import GENERATIONS as MODULES
from wkv.models.detect import read_config
from wkv.models.parts import is_matrix

DECODE = {"4": 53, "5.0": 36, "5.1": 40, "5.2": 40, "6": 48, "7": 57, "7a": 70}
PREFILL = {"4": 612, "5.0": 98, "5.1": 102, "5.2": 185, "6": 184, "7": 126, "7a": 139}
"""Largest number of launches for each generation, for 1 token and for 512 tokens."""

WITHOUT_LAUNCH = ("aten._unsafe_view", "aten.empty", "aten.new_empty", "aten.lift_fresh")


class Launches(TorchDispatchMode):
    """Counts the operators that are neither views nor allocations, and keeps their results."""

    def __init__(self):
        super().__init__()
        self.names, self.results = [], []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        returns = [value.alias_info for value in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returns)
        if not is_view and not str(function).startswith(WITHOUT_LAUNCH):
            self.names.append(str(function))
        self.results += [result] if isinstance(result, torch.Tensor) else []
        return result


def network(generation, n_layer, dtype=torch.bfloat16):
    """Build a network on the meta device, whose products return float32 like those of CUDA."""
    tensors = random_checkpoint(generation, n_layer=n_layer)
    config = read_config({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    with torch.device("meta"):
        built = MODULES[generation].network(config)
    for name, parameter in built.named_parameters():
        if is_matrix(name, parameter.shape):
            parameter.data = parameter.data.to(dtype)
    return built.requires_grad_(False)


def launches(generation, n_layer, tokens):
    built = network(generation, n_layer)
    ids, layers = torch.zeros(1, tokens, dtype=torch.long, device="meta"), built.new_layers(1)
    with torch.no_grad():
        built(ids, layers)  # tries once whether products can return float32
        with Launches() as counted:
            built(ids, layers)
    return counted.names


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(("tokens", "limits"), [(1, DECODE), (512, PREFILL)])
def test_a_layer_needs_no_more_launches_than_before(generation, tokens, limits):
    few, more = launches(generation, 2, tokens), launches(generation, 3, tokens)
    assert len(more) - len(few) <= limits[generation]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_layer_casts_few_tensors(generation):
    few, more = (launches(generation, n_layer, 1) for n_layer in (2, 3))
    casts = more.count("aten._to_copy.default") - few.count("aten._to_copy.default")
    # The gate of 5.x has a mix of its own; 7a has the parts of the token's matrix.
    assert casts <= {"5.1": 4, "5.2": 4, "6": 4, "7a": 8}.get(generation, 3)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_empty_state_is_made_on_the_device(generation):
    built = network(generation, 2)
    with Launches() as made:
        layers = built.new_layers(3)
    assert {tensor.device.type for tensor in made.results} == {"meta"}
    assert {tensor.device.type for layer in layers for tensor in (layer.wkv, layer.ffn_shift)} == {
        "meta"
    }
