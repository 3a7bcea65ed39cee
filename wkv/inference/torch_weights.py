"""Load a checkpoint's tensors into a PyTorch network, as placed by a strategy.

Blocks know nothing about devices. If a strategy has several devices, hooks move the inputs of each
block to its device.
"""

import math
import re
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.weights import TABLE, Weights
from wkv.errors import StrategyError
from wkv.inference.model import GPU_TOKENS_AT_ONCE
from wkv.models import GENERATIONS
from wkv.models.int8 import Int8Linear
from wkv.models.parts import Config, Linear, Shapes, Skeleton, is_matrix
from wkv.models.strategy import Strategy
from wkv.models.strategy.products import WeightCopies, linear_for

ROWS, LIVE_ACTIVATIONS = 16, 20
"""Batch size for which memory is reserved; vectors of n_embd numbers in use at once per token."""

QUANTIZABLE = re.compile(r"(.*\.)?(receptance|key|value|gate|output|head)")
"""Modules whose matrices may be int8: those of the time mix and channel mix, and the head."""


def load_torch_network(config: Config, weights: Weights) -> Skeleton:
    """Build the PyTorch network of a checkpoint and load its weights.

    Raises:
        StrategyError: if the file has int8 matrices where the strategy has another dtype.
    """
    strategy = weights.strategy
    with torch.device("meta"):
        network = GENERATIONS[config.generation].network(config)
    if "blocks.0.ln0.weight" not in weights.shapes:  # it is applied to the embedding already
        network.blocks[0].ln0 = nn.Identity()
    _quantize_modules(network, weights.checkpoint, strategy)
    network.load_state_dict(dict(_tensors(network, weights)), assign=True)
    copies = WeightCopies()
    for name, module in network.named_modules():
        if isinstance(module, Linear):
            module.product = linear_for(strategy.placement_of(name + ".weight"), copies)
        elif isinstance(module, Int8Linear) and module.placement.streamed:
            module.product = copies.wrap(module.product)
    if strategy.is_split:
        _move_between_devices(network, strategy)
    return network.requires_grad_(False).eval()


def layer_bytes(shapes: Shapes, strategy: Strategy) -> list[int]:
    """Return the size in bytes of each of the L + 1 layers, without tables that stay on the CPU."""
    sizes = [0] * len(strategy.layers)
    for name, shape in shapes.items():
        if name.startswith("emb.") or name.endswith(TABLE):
            continue
        placement = strategy.placement_of(name)
        width = placement.dtype.itemsize if is_matrix(name, shape) else torch.float32.itemsize
        if placement.quantized and QUANTIZABLE.fullmatch(name.removesuffix(".weight")):
            width = torch.int8.itemsize
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else -1
        sizes[layer] += width * math.prod(shape)
    return sizes


def gpu_bytes(config: Config, shapes: Shapes, strategy: Strategy) -> int:
    """Return the memory that a model needs on the GPUs of a strategy.

    It contains the weights without the embedding, which stays on the CPU, and for a batch of ROWS
    the old and new states and the logits. The activations of a long prompt are estimated.
    """
    placed = zip(layer_bytes(shapes, strategy), strategy.layers, strict=True)
    weights = sum(n for n, placement in placed if placement.device.type != "cpu")
    width = 3 if config.head_size is None else config.head_size  # of the state, per channel
    state = config.n_layer * (2 * config.n_embd + width * config.dim_att)
    activations = GPU_TOKENS_AT_ONCE * (LIVE_ACTIVATIONS * config.n_embd + 2 * config.dim_ffn)
    numbers = ROWS * (2 * state + config.vocab_size) + activations
    return weights + torch.float32.itemsize * numbers


def table_bytes(shapes: Shapes, strategy: Strategy) -> int:
    """Return the size in bytes of the lookup tables: the embedding, and those of RWKV-7a."""
    return sum(
        strategy.placement_of(name).dtype.itemsize * math.prod(shape)
        for name, shape in shapes.items()
        if name.startswith("emb.") or name.endswith(TABLE)
    )


def _quantize_modules(network: Skeleton, checkpoint: Checkpoint, strategy: Strategy) -> None:
    """Replace each Linear that the strategy quantizes by an Int8Linear."""
    for name, module in list(network.named_modules()):
        if not isinstance(module, Linear) or not QUANTIZABLE.fullmatch(name):
            continue
        placement = strategy.placement_of(name + ".weight")
        if placement.quantized:
            parent, _, attribute = name.rpartition(".")
            with torch.device("meta"):
                int8 = Int8Linear(module.in_features, module.out_features, placement)
            setattr(network.get_submodule(parent), attribute, int8)
        elif checkpoint.dtypes[name + ".weight"] == torch.int8:
            raise StrategyError(
                f"{checkpoint.path}: {name}.weight is int8 in this file, made for the strategy "
                f"{checkpoint.strategy}, and {str(strategy)!r} needs it in "
                f"{str(placement.dtype).split('.')[1]}; use a strategy with i8 there, or the "
                "original checkpoint"
            )


def _tensors(network: Skeleton, weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the names of the network's tensors and their prepared values."""
    int8 = {name for name, module in network.named_modules() if isinstance(module, Int8Linear)}
    for name in network.state_dict():
        module, _, part = name.rpartition(".")
        if module not in int8:
            yield name, weights.torch_tensor(name)
        elif part == "weight":
            for key, tensor in weights.torch_int8(module).items():
                yield f"{module}.{key}", tensor


def _move_between_devices(network: Skeleton, strategy: Strategy) -> None:
    """Register hooks that move the inputs of each block, and of ln_out, to its device."""
    for block, placement in zip(network.blocks, strategy.layers, strict=False):
        block.register_forward_pre_hook(partial(_move, device=placement.device))
    network.ln_out.register_forward_pre_hook(partial(_move, device=strategy.layers[-1].device))


def _move(_: nn.Module, arguments: tuple[object, ...], device: torch.device) -> tuple[object, ...]:
    """Move the tensors among a module's arguments to a device; states are there already."""
    return tuple(_moved(argument, device) for argument in arguments)


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value
