"""The memory of a state as the engine reads and writes it."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wkv.errors import StateError
from wkv.models.parts import Config
from wkv.models.state import LayerState
from wkv.native.state_memory import StateMemory


class Parts(NamedTuple):
    """The parts of all layers, in the order of `StatePart`, in one block of memory.

    Attributes:
        att_shift, wkv, ffn_shift: (L, B, D), (L, B, ...) and (L, B, D).
        addresses: (L, 3) int64, the address of each part of each layer.
    """

    att_shift: Tensor
    wkv: Tensor
    ffn_shift: Tensor
    addresses: Tensor


FLOAT_BYTES = 4

KEPT_VECTORS = {"4": 3, "5.0": 2, "5.1": 2, "5.2": 2, "6": 3, "7": 5}
"""Vectors (A,) of a token that a layer's recurrence keeps for a rewind; `engine.h` lists them."""


class StackedLayers(tuple[LayerState, ...]):
    """The layers of a state in the memory that the engine wrote."""

    parts: Parts

    @staticmethod
    def of(parts: Parts) -> "StackedLayers":
        """Build the layers from parts whose first axis is the layer."""
        layers = StackedLayers(map(LayerState, *(part.unbind(0) for part in parts[:3])))
        layers.parts = parts
        return layers


@dataclass(frozen=True)
class Readable:
    """The addresses at which the engine reads a state.

    Attributes:
        addresses: (L, 3) int64, the address of each part of each layer.
        tensors: the tensors at these addresses; a reference keeps their memory alive.
    """

    addresses: Tensor
    tensors: Sequence[Tensor]


def allocate(memory: StateMemory, config: Config, batch: int) -> Parts:
    """Allocate the parts of a state in one block of memory."""
    if config.n_head is None or config.head_size is None:
        shape: tuple[int, ...] = (3, config.dim_att)
    else:
        shape = (config.n_head, config.head_size, config.head_size)
    return _allocate(memory, config, batch, shape)


def allocate_kept(memory: StateMemory, config: Config, rows: int) -> Parts:
    """Allocate what a pass of `rows` tokens keeps for a rewind: shifts, and `KEPT_VECTORS`."""
    return _allocate(memory, config, rows, (KEPT_VECTORS[config.generation], config.dim_att))


def _allocate(memory: StateMemory, config: Config, rows: int, each: tuple[int, ...]) -> Parts:
    shapes, sizes, offsets = _arrangement(config.n_layer, rows, config.n_embd, each)
    block = memory.take(sum(sizes))
    att_shift, wkv, ffn_shift = map(Tensor.view, torch.split(block, sizes), shapes)
    return Parts(att_shift, wkv, ffn_shift, offsets + block.data_ptr())


@functools.lru_cache(maxsize=256)
def _arrangement(
    n_layer: int, rows: int, n_embd: int, each: tuple[int, ...]
) -> tuple[list[tuple[int, ...]], list[int], Tensor]:
    """Return the shapes and sizes of the parts, and where each layer of each begins, in bytes."""
    shift = (n_layer, rows, n_embd)
    shapes = [shift, (n_layer, rows, *each), shift]
    sizes = [math.prod(shape) for shape in shapes]
    begins = torch.tensor([0, sizes[0], sizes[0] + sizes[1]])
    steps = torch.tensor(sizes) // n_layer
    return shapes, sizes, (begins + steps * torch.arange(n_layer)[:, None]) * FLOAT_BYTES


def readable(layers: Sequence[LayerState], like: Parts) -> Readable:
    """Return where the engine reads a state; tensors that it cannot read are copied.

    Args:
        layers: any state.
        like: the parts of a state with the sizes that the engine expects.

    Raises:
        StateError: if the state has other sizes or is not on the CPU.
    """
    if isinstance(layers, StackedLayers) and _shapes(layers.parts) == _shapes(like):
        return Readable(layers.parts.addresses, layers.parts)
    _check(layers, like)
    copies = [
        part.to(torch.float32).contiguous()
        for layer in layers
        for part in (layer.att_shift, layer.wkv, layer.ffn_shift)
    ]
    return Readable(torch.tensor([part.data_ptr() for part in copies]), copies)


def _check(layers: Sequence[LayerState], like: Parts) -> None:
    """Raise StateError unless a state has the shapes that the engine reads."""
    shapes = [shape[1:] for shape in _shapes(like)]
    n_layer = len(like.wkv)
    if len(layers) != n_layer:
        raise StateError(f"the state has {len(layers)} layers, this model has {n_layer}")
    for layer in layers:
        parts = layer.att_shift, layer.wkv, layer.ffn_shift
        if [part.shape for part in parts] != shapes or any(p.device.type != "cpu" for p in parts):
            found = ", ".join(f"{tuple(part.shape)} on {part.device}" for part in parts)
            wanted = ", ".join(str(tuple(shape)) for shape in shapes)
            raise StateError(
                f"a layer of the state is {found}; expected {wanted} on cpu: select rows "
                "with state.rows, join states with State.stack"
            )


def _shapes(parts: Parts) -> list[torch.Size]:
    return [part.shape for part in parts[:3]]
