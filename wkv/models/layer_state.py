"""The state of one layer, and the layers of a state: tensors, or rows in an engine's memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerState:
    """The state of one layer for a batch of B rows.

    Attributes:
        att_shift: (B, D) float32, the last input of the time mix, after the layer norm.
        wkv: float32, the recurrent state. Generation 4: (B, 3, A) numerator, denominator and
            largest exponent. Generations 5 to 7: (B, H, N, N), axes (value, key).
        ffn_shift: (B, D) float32, the last input of the channel mix, after the layer norm.
    """

    att_shift: Tensor
    wkv: Tensor
    ffn_shift: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> LayerState:
        """Return a layer state with `function` applied to each tensor."""
        return LayerState(function(self.att_shift), function(self.wkv), function(self.ffn_shift))

    def to(self, device: torch.device) -> LayerState:
        """Move the tensors to a device."""
        return self.map(lambda tensor: tensor.to(device))


class EngineLayers(Sequence[LayerState], ABC):
    """The layers of a state that an engine stores in its own memory.

    The engine never changes them, so states can share rows. A LayerState is a copy, which is made
    when someone looks at it.
    """

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device on which the engine computes."""

    @property
    @abstractmethod
    def n_bytes(self) -> int:
        """The size of the tensors in bytes, without sharing."""

    @abstractmethod
    def rows(self, indices: Sequence[int]) -> EngineLayers:
        """Return the selected rows, which share their memory with this object."""

    @abstractmethod
    def joined(self, others: Sequence[EngineLayers]) -> EngineLayers | None:
        """Return these rows and those of others; None if another engine stores some of them."""


Layers = tuple[LayerState, ...] | EngineLayers
"""The layers of a state: tensors, or rows in the memory of an engine."""


def joined_layers(parts: Sequence[Layers]) -> Layers:
    """Return the rows of several states of the same model, one after the other."""
    first, *others = parts
    stored = [part for part in others if isinstance(part, EngineLayers)]
    if isinstance(first, EngineLayers) and len(stored) == len(others):
        together = first.joined(stored)
        if together is not None:
            return together
    of_layers = zip(*parts, strict=True)
    return tuple(
        LayerState(
            torch.cat([layer.att_shift for layer in layers]),
            torch.cat([layer.wkv for layer in layers]),
            torch.cat([layer.ffn_shift for layer in layers]),
        )
        for layers in of_layers
    )
