"""The layers of a state whose rows lie in slots of a GPU engine."""

from collections.abc import Sequence
from typing import overload

import torch

from wkv.gpu.slots import Slot, SlotPool
from wkv.models.state import EngineLayers, LayerState


class SlotLayers(EngineLayers):
    """Rows of slots; `rows` and `joined` share the slots and copy nothing.

    Attributes:
        pool: the pool of the slots.
        slots: the slot of each row.
    """

    def __init__(self, pool: SlotPool, slots: Sequence[Slot]) -> None:
        self.pool = pool
        self.slots = tuple(slots)

    def __len__(self) -> int:
        """Return the number of layers."""
        return self.pool.slots.wkv.shape[1]

    @overload
    def __getitem__(self, index: int) -> LayerState: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[LayerState, ...]: ...

    def __getitem__(self, index: int | slice) -> LayerState | tuple[LayerState, ...]:
        """Return a copy of a layer, or of several layers."""
        if isinstance(index, slice):
            return tuple(self.pool.layer(i, self.slots) for i in range(len(self))[index])
        return self.pool.layer(range(len(self))[index], self.slots)

    @property
    def device(self) -> torch.device:
        """The device on which the engine computes."""
        return self.pool.slots.device

    @property
    def n_bytes(self) -> int:
        """The size of the tensors in bytes, without sharing."""
        return len(self.slots) * self.pool.slots.slot_bytes

    def rows(self, indices: Sequence[int]) -> "SlotLayers":
        """Return the selected rows, which share their slots with this object."""
        return SlotLayers(self.pool, [self.slots[index] for index in indices])

    def joined(self, others: Sequence[EngineLayers]) -> "SlotLayers | None":
        """Return these rows and those of others; None if another pool has some of them."""
        slots = list(self.slots)
        for other in others:
            if not isinstance(other, SlotLayers) or other.pool is not self.pool:
                return None
            slots += other.slots
        return SlotLayers(self.pool, slots)
