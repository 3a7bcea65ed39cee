"""The memory of a state as the engine reads and writes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.errors import StateError
from wkv.models.parts import Config
from wkv.models.state import LayerState
from wkv.native.state_memory import StateMemory

Parts = tuple[Tensor, Tensor, Tensor]
"""att_shift, wkv and ffn_shift of all layers, in the order of `StatePart`."""

KEPT_VECTORS = {"4": 3, "5.0": 2, "5.1": 2, "5.2": 2, "6": 3, "7": 5}
"""Vectors (A,) of a token that a layer's recurrence keeps for a rewind; `engine.h` lists them."""


class StackedLayers(tuple[LayerState, ...]):
    """The layers of a state whose parts are contiguous tensors, as the engine writes them.

    Attributes:
        parts: att_shift (L, B, D), wkv (L, B, ...), ffn_shift (L, B, D).
    """

    parts: Parts

    @staticmethod
    def of(parts: Parts) -> "StackedLayers":
        """Build the layers from parts whose first axis is the layer."""
        layers = StackedLayers(map(LayerState, *(part.unbind(0) for part in parts)))
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
    shift, wkv = (config.n_layer, rows, config.n_embd), (config.n_layer, rows, *each)
    sizes = [math.prod(shift), math.prod(wkv), math.prod(shift)]
    att_shift, recurrence, ffn_shift = torch.split(memory.take(sum(sizes)), sizes)
    return att_shift.view(shift), recurrence.view(wkv), ffn_shift.view(shift)


def addresses(parts: Parts) -> Tensor:
    """Return the address of each part of each layer, (L, 3) int64."""
    n_layer = len(parts[0])
    begins = torch.tensor([part.data_ptr() for part in parts])
    steps = torch.tensor([part.stride(0) * part.element_size() for part in parts])
    return begins + steps * torch.arange(n_layer)[:, None]


def readable(layers: Sequence[LayerState], like: Parts) -> Readable:
    """Return where the engine reads a state; tensors that it cannot read are copied.

    Args:
        layers: any state.
        like: the parts of a state with the sizes that the engine expects.

    Raises:
        StateError: if the state has other sizes or is not on the CPU.
    """
    if isinstance(layers, StackedLayers) and _shapes(layers.parts) == _shapes(like):
        return Readable(addresses(layers.parts), layers.parts)
    _check(layers, like)
    copies = [
        part.to(torch.float32).contiguous()
        for layer in layers
        for part in (layer.att_shift, layer.wkv, layer.ffn_shift)
    ]
    return Readable(torch.tensor([part.data_ptr() for part in copies]), copies)


def _check(layers: Sequence[LayerState], like: Parts) -> None:
    """Raise StateError unless a state has the shapes that the engine reads."""
    shapes = [part.shape[1:] for part in like]
    if len(layers) != len(like[0]):
        raise StateError(f"the state has {len(layers)} layers, this model has {len(like[0])}")
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
    return [part.shape for part in parts]
