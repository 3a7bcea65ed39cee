"""Memory for the states of a GPU engine: a pool of slots that grows, and makes room.

A `Slot` is a state of one row. Its values are written once and never change, so any number of
states may refer to it, and it is free again when the last of them is deleted. If no slot is free
and the memory of the device is used up, the states that were not used for the longest time move to
main memory. They come back when they are read.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from weakref import WeakSet, ref

import torch
from torch import Tensor

from wkv.errors import BusyError
from wkv.gpu.rows import EMPTY_SLOT, SPARE_SLOT, Slots
from wkv.models.state import LayerState

FIRST_COUNT = 16
"""Number of slots at the beginning; it doubles when more are needed."""

SMALLEST_GROWTH = 1.25
"""The pool grows only by a larger factor than this one."""


@dataclass(frozen=True)
class SlotUsage:
    """The memory of a pool.

    Attributes:
        count: slots on the device.
        in_use: those that contain states.
        n_bytes: size of all slots on the device.
        saved_bytes: size of the states that moved to main memory.
    """

    count: int
    in_use: int
    n_bytes: int
    saved_bytes: int


class Slot:
    """A state of one row; `Layers` of any number of states may refer to it.

    Attributes:
        number: the number of the slot, or None while the state is in main memory.
        saved: the state in main memory: (1, L, ...) for each part.
        used: time of the last use, as a count of calls.
    """

    __slots__ = ("__weakref__", "_free", "number", "saved", "used")

    def __init__(self, number: int, free: list[int], used: int) -> None:
        self.number: int | None = number
        self.saved: Slots | None = None
        self.used = used
        self._free = free

    def __del__(self) -> None:
        """Free the slot. This may happen in any thread and at any time; it needs no lock."""
        if self.number is not None:
            self._free.append(self.number)


class SlotPool:
    """The slots of a model.

    Methods other than `layer` are called while `lock` is held.

    Attributes:
        lock: protects the slots and everything that computes with them.
        slots: the tensors; replaced when the pool grows.
        empty: the slot of the empty state.
    """

    def __init__(
        self, empty: Sequence[LayerState], room: Callable[[], int], first_count: int = FIRST_COUNT
    ) -> None:
        """Create a pool.

        Args:
            empty: the empty state of one row, one LayerState for each layer.
            room: returns the number of bytes that more slots may take on the device.
            first_count: number of slots at the beginning.
        """
        self.lock = threading.RLock()
        self._room = room
        self._free: list[int] = []
        self._owners: dict[int, ref[Slot]] = {}
        self._saved: WeakSet[Slot] = WeakSet()
        self._calls = 0
        parts = [
            torch.stack([getattr(layer, name) for layer in empty], dim=1)
            for name in ("att_shift", "wkv", "ffn_shift")
        ]
        self.slots = Slots(*(_enlarged(part, max(first_count, 3)) for part in parts))
        self._add_free(SPARE_SLOT + 1)
        self.empty = self._owned(EMPTY_SLOT)

    @property
    def usage(self) -> SlotUsage:
        """The memory in use at present; needs no lock."""
        slots = self.slots
        count, size = slots.count - (SPARE_SLOT + 1), slots.slot_bytes
        used = count - len(self._free)
        return SlotUsage(count, used, slots.count * size, len(self._saved) * size)

    def take(self, count: int, keep: Collection[Slot] = ()) -> list[Slot]:
        """Return slots without values, which belong to the caller.

        Args:
            count: how many.
            keep: states that must stay on the device.

        Raises:
            BusyError: if there is no memory for so many states.
        """
        if len(self._free) < count:
            self._grow(count)
        if len(self._free) < count:
            self._make_room(count, set(keep))
        self._calls += 1
        return [self._owned(self._free.pop()) for _ in range(count)]

    def numbers(self, slots: Sequence[Slot]) -> list[int]:
        """Return the numbers of states, after those in main memory came back to the device.

        Raises:
            BusyError: if there is no memory for them.
        """
        self._calls += 1
        for slot in slots:
            slot.used = self._calls
            if slot.saved is not None:
                self._bring_back(slot, slots)
        return [slot.number for slot in slots if slot.number is not None]

    def adopt(self, layers: Sequence[LayerState]) -> list[Slot]:
        """Copy a state of B rows, whose layers are on one device, into slots.

        Raises:
            BusyError: if there is no memory for them.
        """
        taken = self.take(len(layers[0].wkv))
        index = self.index([slot.number or 0 for slot in taken])
        for to, name in (
            (self.slots.att_shift, "att_shift"),
            (self.slots.wkv, "wkv"),
            (self.slots.ffn_shift, "ffn_shift"),
        ):
            parts = torch.stack([getattr(layer, name) for layer in layers], dim=1)
            to.index_copy_(0, index, parts.to(to))
        return taken

    def layer(self, index: int, slots: Sequence[Slot]) -> LayerState:
        """Return a copy of one layer of several states, on the device."""
        with self.lock:
            numbers = self.index([slot.number or 0 for slot in slots])
            layer = self.slots.layer(index, numbers)
            for row, slot in enumerate(slots):
                if slot.saved is not None:
                    layer.att_shift[row] = slot.saved.att_shift[0, index]
                    layer.wkv[row] = slot.saved.wkv[0, index]
                    layer.ffn_shift[row] = slot.saved.ffn_shift[0, index]
            return layer

    def index(self, numbers: Sequence[int]) -> Tensor:
        """Return numbers as a tensor int64 on the device."""
        return torch.tensor(numbers, dtype=torch.int64, device=self.slots.device)

    def _owned(self, number: int) -> Slot:
        slot = Slot(number, self._free, self._calls)
        self._owners[number] = ref(slot)
        return slot

    def _add_free(self, first: int) -> None:
        self._free += range(self.slots.count - 1, first - 1, -1)  # low numbers are taken first

    def _grow(self, count: int) -> None:
        """Copy all slots to larger tensors, if the device has memory for both."""
        old = self.slots
        fitting = self._room() // old.slot_bytes
        new_count = min(max(2 * old.count, old.count + count), fitting)
        if new_count < SMALLEST_GROWTH * old.count:
            return
        try:
            self.slots = Slots(
                _enlarged(old.att_shift, new_count),
                _enlarged(old.wkv, new_count),
                _enlarged(old.ffn_shift, new_count),
            )
        except torch.OutOfMemoryError:  # another program took it
            return
        self._add_free(old.count)

    def _make_room(self, count: int, keep: set[Slot]) -> None:
        """Move the states that were not used for the longest time to main memory."""
        keep.add(self.empty)
        owners = [owner for number in list(self._owners) if (owner := self._owners[number]())]
        movable = [one for one in owners if one.number is not None and one not in keep]
        for slot in sorted(movable, key=lambda one: one.used):
            if len(self._free) >= count:
                return
            self._move_out(slot)
        if len(self._free) < count:
            raise BusyError(
                f"{count} states are needed on the {self.slots.device.type}, which has memory for "
                f"{self.slots.count - SPARE_SLOT - 1}, and {len(keep) - 1} of them are in use; use "
                "fewer rows at once, or try again later"
            )

    def _move_out(self, slot: Slot) -> None:
        assert slot.number is not None
        old, number = self.slots, slot.number
        try:
            slot.saved = Slots(
                _in_main_memory(old.att_shift[number : number + 1]),
                _in_main_memory(old.wkv[number : number + 1]),
                _in_main_memory(old.ffn_shift[number : number + 1]),
            )
        except (MemoryError, RuntimeError) as error:
            raise BusyError(
                "the device has no memory for another state, and main memory neither; try again "
                "later, or cache fewer states"
            ) from error
        slot.number = None
        self._saved.add(slot)
        self._free.append(number)

    def _bring_back(self, slot: Slot, keep: Collection[Slot]) -> None:
        saved = slot.saved
        assert saved is not None
        (new,) = self.take(1, keep)
        assert new.number is not None
        number = new.number
        self.slots.att_shift[number] = saved.att_shift[0]
        self.slots.wkv[number] = saved.wkv[0]
        self.slots.ffn_shift[number] = saved.ffn_shift[0]
        slot.number, slot.saved, new.number = number, None, None  # `new` must not free it
        self._owners[number] = ref(slot)
        self._saved.discard(slot)


def _enlarged(part: Tensor, count: int) -> Tensor:
    """Return a tensor with `count` slots that begins with the values of `part`."""
    larger = part.new_empty(count, *part.shape[1:])
    larger[: len(part)] = part
    return larger


def _in_main_memory(part: Tensor) -> Tensor:
    """Return a copy in main memory, from which a GPU can read quickly."""
    pinned = part.device.type == "cuda"
    copy = torch.empty(part.shape, dtype=part.dtype, pin_memory=pinned)
    return copy.copy_(part)
