"""Load a checkpoint's tensors into a PyTorch network, as placed by a strategy.

Blocks know nothing about devices. If a strategy has several devices, hooks move the inputs of each
block to its device.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts import is_folded
from wkv.checkpoint.packing import rounded
from wkv.errors import StrategyError
from wkv.models import GENERATIONS
from wkv.models.int8 import PARTS, Int8Linear, quantize
from wkv.models.parts import Config, Linear, Shapes, Skeleton, is_matrix
from wkv.models.strategy import Placement, Strategy
from wkv.models.strategy.products import factor_for, linear_for

TABLE = ".s_emb.weight"
"""Suffix of 7a's tables of a matrix per token. They are large and stay on the CPU."""

ALIGNMENT = 64
"""The size of a CPU cache line in bytes."""

QUANTIZABLE = re.compile(r"(.*\.)?(receptance|key|value|gate|output|head)")
"""Modules whose matrices may be int8: those of the time mix and channel mix, and the head."""

STREAMABLE = re.compile(r".*\.(receptance|key|value|output)\.weight")
"""Matrices that stay in main memory if their layer is streamed; gate and head do not."""


def load_torch_network(config: Config, checkpoint: Checkpoint, strategy: Strategy) -> Skeleton:
    """Build the PyTorch network of a checkpoint and load its weights.

    Matrices get the placement's dtype or int8, vectors float32. Tensors that need no conversion
    stay memory-mapped.

    Raises:
        StrategyError: if the file has int8 matrices where the strategy has another dtype.
    """
    with torch.device("meta"):
        network = GENERATIONS[config.generation].network(config)
    if is_folded(checkpoint):
        network.blocks[0].ln0 = nn.Identity()
    _quantize_modules(network, checkpoint, strategy)
    tensors = dict(_tensors(network, checkpoint, strategy))
    network.load_state_dict(tensors, assign=True)
    for name, module in network.named_modules():
        if isinstance(module, Linear):
            module.product = linear_for(strategy.of(name + ".weight"))
    if strategy.is_split:
        _move_between_devices(network, strategy)
    return network.requires_grad_(False).eval()


def layer_bytes(shapes: Shapes, strategy: Strategy) -> list[int]:
    """Return the size in bytes of each of the L + 1 layers, without tables that stay on the CPU."""
    sizes = [0] * len(strategy.layers)
    for name, shape in shapes.items():
        if name.startswith("emb.") or name.endswith(TABLE):
            continue
        placement = strategy.of(name)
        width = placement.dtype.itemsize if is_matrix(name, shape) else torch.float32.itemsize
        if placement.quantized and QUANTIZABLE.fullmatch(name.removesuffix(".weight")):
            width = torch.int8.itemsize
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else -1
        sizes[layer] += width * math.prod(shape)
    return sizes


def is_packable(name: str, shape: Sequence[int]) -> bool:
    """Check whether a strategy such as `cpu int8` packs a tensor: a matrix except the embedding."""
    return is_matrix(name, shape) and not name.startswith("emb.")


def _quantize_modules(network: Skeleton, checkpoint: Checkpoint, strategy: Strategy) -> None:
    """Replace each Linear that the strategy quantizes by an Int8Linear."""
    for name, module in list(network.named_modules()):
        if not isinstance(module, Linear) or not QUANTIZABLE.fullmatch(name):
            continue
        placement = strategy.of(name + ".weight")
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


def _tensors(
    network: Skeleton, checkpoint: Checkpoint, strategy: Strategy
) -> Iterator[tuple[str, Tensor]]:
    """Iterate over the names of the network's tensors and their prepared values."""
    int8 = {name for name, module in network.named_modules() if isinstance(module, Int8Linear)}
    for name, parameter in network.state_dict().items():
        module, _, part = name.rpartition(".")
        placement = strategy.of(name)
        if checkpoint.is_packed and checkpoint.strategy == str(strategy):
            placement = replace(placement, packed=None)  # the file's values are rounded already
        if module not in int8:
            yield name, _prepared(checkpoint, name, tuple(parameter.shape), placement)
        elif part == "weight":
            for key, tensor in _int8(checkpoint, module).items():
                is_streamed = key == "weight" and placement.streamed and _streams(name)
                tensor = _pinned(tensor, placement) if is_streamed else tensor.to(placement.device)
                yield f"{module}.{key}", tensor


def _prepared(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], placement: Placement
) -> Tensor:
    """Return a tensor of the file with the dtype, the shape and the device that are required."""
    tensor = checkpoint[name].reshape(shape)
    if placement.packed and is_packable(name, shape):
        tensor = rounded(tensor, name, placement.packed)
    if not is_matrix(name, shape):
        return _aligned(tensor.to(placement.device, torch.float32))
    if not name.endswith(".weight"):
        return factor_for(tensor.to(placement.device, placement.dtype), placement)
    if placement.streamed and _streams(name):
        return _pinned(tensor.to(placement.dtype), placement)
    if name.endswith(TABLE):
        return tensor.to(placement.dtype)
    return tensor.to(placement.device, placement.dtype)


def _int8(checkpoint: Checkpoint, module: str) -> dict[str, Tensor]:
    """Return the parts of an int8 matrix, read from the file or quantized from its floats."""
    names = ["weight", *(f"weight_{part}" for part in PARTS)]
    if f"{module}.weight_mx" in checkpoint:
        parts = {name: checkpoint[f"{module}.{name}"] for name in names}
        return {
            name: tensor if name == "weight" else _aligned(tensor.float())
            for name, tensor in parts.items()
        }
    return quantize(checkpoint[f"{module}.weight"])


def _aligned(vector: Tensor) -> Tensor:
    """Return a vector at an aligned address; it is copied if it is not aligned in the file.

    At other addresses PyTorch adds numbers in another order, so that the last bits of the results
    would depend on the file.
    """
    return vector.clone() if vector.data_ptr() % ALIGNMENT else vector


def _streams(name: str) -> bool:
    return STREAMABLE.fullmatch(name) is not None


def _pinned(tensor: Tensor, placement: Placement) -> Tensor:
    """Copy a tensor for a CUDA device to page-locked memory, from which transfers are faster."""
    if placement.device.type != "cuda":
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError:  # too much memory is page-locked already, which makes this only slower
        return tensor


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
