"""Fills a network with a checkpoint's tensors, each where and how its strategy says.

Blocks know nothing of devices: where a strategy has several, hooks move what a block is given to
its own device first.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.packing import rounded
from wkv.errors import StrategyError
from wkv.models.int8 import PARTS, Int8Linear, quantize
from wkv.models.parts import Linear, Skeleton, is_matrix
from wkv.strategy import Placement, Strategy
from wkv.strategy.products import factor_for, linear_for

TABLE = ".s_emb.weight"
"""7a's tables of a matrix per token, which stay on the CPU like the embedding: they are larger."""

ALIGNMENT = 64
"""Bytes: a line of a processor's cache."""

QUANTISABLE = re.compile(r"(.*\.)?(receptance|key|value|gate|output|head)")
"""The matrices that int8 is for: those of the mixes, and the head."""

STREAMABLE = re.compile(r".*\.(receptance|key|value|output)\.weight")
"""The matrices that stay in main memory in a streamed layer; gate and head do not."""


def fill(network: Skeleton, checkpoint: Checkpoint, strategy: Strategy) -> Skeleton:
    """Give a network on the meta device its weights; returns it, ready to run.

    Matrices come in the placement's dtype or as int8, vectors in float32. What needs no cast stays
    mapped to the file.

    Raises:
        StrategyError: if the file has int8 matrices where the strategy wants others.
    """
    _quantize_modules(network, checkpoint, strategy)
    tensors = dict(_tensors(network, checkpoint, strategy))
    network.load_state_dict(tensors, assign=True)
    for name, module in network.named_modules():
        if isinstance(module, Linear):
            module.product = linear_for(strategy.of(name + ".weight"))
    if strategy.is_split:
        _move_between_devices(network, strategy)
    return network.requires_grad_(False).eval()


def layer_bytes(network: Skeleton, strategy: Strategy) -> list[int]:
    """Bytes that each of the L + 1 layers takes under a strategy, without tables on the CPU."""
    sizes = [0] * len(strategy.layers)
    for name, tensor in network.state_dict().items():
        if name.startswith("emb.") or name.endswith(TABLE):
            continue
        placement, shape = strategy.of(name), tuple(tensor.shape)
        width = placement.dtype.itemsize if is_matrix(name, shape) else torch.float32.itemsize
        if placement.quantized and QUANTISABLE.fullmatch(name.removesuffix(".weight")):
            width = torch.int8.itemsize
        layer = int(name.split(".")[1]) if name.startswith("blocks.") else -1
        sizes[layer] += width * tensor.numel()
    return sizes


def is_packable(name: str, shape: Sequence[int]) -> bool:
    """Whether a strategy such as `cpu int8` packs a tensor: all matrices but the embedding."""
    return is_matrix(name, shape) and not name.startswith("emb.")


def _quantize_modules(network: Skeleton, checkpoint: Checkpoint, strategy: Strategy) -> None:
    """Put an Int8Linear in the place of each Linear that is to be int8."""
    for name, module in list(network.named_modules()):
        if not isinstance(module, Linear) or not QUANTISABLE.fullmatch(name):
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
                f"{checkpoint.strategy}, and {str(strategy)!r} wants it in "
                f"{str(placement.dtype).split('.')[1]}; use a strategy with i8 there, or the "
                "original checkpoint"
            )


def _tensors(
    network: Skeleton, checkpoint: Checkpoint, strategy: Strategy
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of the network, ready."""
    int8 = {name for name, module in network.named_modules() if isinstance(module, Int8Linear)}
    for name, parameter in network.state_dict().items():
        module, _, part = name.rpartition(".")
        placement = strategy.of(name)
        if checkpoint.is_packed and checkpoint.strategy == str(strategy):
            placement = replace(placement, packed=None)  # the file's values are those of packing
        if module not in int8:
            yield name, _ready(checkpoint, name, tuple(parameter.shape), placement)
        elif part == "weight":
            for made, tensor in _int8(checkpoint, module).items():
                stays = made == "weight" and placement.streamed and _streams(name)
                tensor = _pinned(tensor, placement) if stays else tensor.to(placement.device)
                yield f"{module}.{made}", tensor


def _ready(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], placement: Placement
) -> Tensor:
    """A tensor of the file in the dtype, the shape and the place that it is needed in."""
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
    """The parts of an int8 matrix: those in the file, or made from its floats."""
    names = ["weight", *(f"weight_{part}" for part in PARTS)]
    if f"{module}.weight_mx" in checkpoint:
        parts = {name: checkpoint[f"{module}.{name}"] for name in names}
        return {
            name: tensor if name == "weight" else _aligned(tensor.float())
            for name, tensor in parts.items()
        }
    return quantize(checkpoint[f"{module}.weight"])


def _aligned(vector: Tensor) -> Tensor:
    """A vector that begins where a processor reads well, as a copy if it does not in the file.

    Sums are formed in another order elsewhere, and the same model would give other last bits.
    """
    return vector.clone() if vector.data_ptr() % ALIGNMENT else vector


def _streams(name: str) -> bool:
    return STREAMABLE.fullmatch(name) is not None


def _pinned(tensor: Tensor, placement: Placement) -> Tensor:
    """A tensor in memory that a CUDA device reads without help of the CPU, if it is for one."""
    if placement.device.type != "cuda":
        return tensor
    try:
        return tensor.pin_memory()
    except RuntimeError:  # not enough memory may be pinned: slower, not wrong
        return tensor


def _move_between_devices(network: Skeleton, strategy: Strategy) -> None:
    """Let each block, and ln_out, move what it is given to its own device."""
    for block, placement in zip(network.blocks, strategy.layers, strict=False):
        block.register_forward_pre_hook(partial(_move, device=placement.device))
    network.ln_out.register_forward_pre_hook(partial(_move, device=strategy.layers[-1].device))


def _move(_: nn.Module, arguments: tuple[object, ...], device: torch.device) -> tuple[object, ...]:
    """The tensors among a module's arguments, on a device; states are there already."""
    return tuple(_moved(argument, device) for argument in arguments)


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value
