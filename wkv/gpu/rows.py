"""The interface of a step of the GPU engine: packed rows in, logits out, states in slots.

A row is one token. The rows of a call are packed without padding: all rows of the first sequence,
then all rows of the second one. Decode (one row for each sequence), prefill, prompts of different
lengths and mixtures of them are therefore the same call. A state lies in a *slot*, and a sequence
reads its old state from one slot and writes its new state to another one.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wkv.models.state import LayerState

EMPTY_SLOT, SPARE_SLOT = 0, 1
"""The slot of the empty state, which is only read; and the slot that padding writes to."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The states of all slots, for S slots and L layers; contiguous tensors on one device.

    A tensor may have more than 2^31 numbers, so kernels compute offsets in 64 bits. The values of
    a slot that no sequence uses may be anything, also NaN.

    Attributes:
        att_shift: (S, L, D) float32, the last input of the time mix, after the layer norm.
        wkv: float32, the recurrent state. Generation 4: (S, L, 3, A), as in `LayerState`.
            Generations 5 to 7: (S, L, H, N, N), axes (value, key).
        ffn_shift: (S, L, D) float32, the last input of the channel mix, after the layer norm.
    """

    att_shift: Tensor
    wkv: Tensor
    ffn_shift: Tensor

    @property
    def count(self) -> int:
        """The number of slots."""
        return len(self.wkv)

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.wkv.device

    @property
    def slot_bytes(self) -> int:
        """The size of one slot in bytes."""
        parts = self.att_shift, self.wkv, self.ffn_shift
        return sum(part[0].numel() * part.element_size() for part in parts)

    def layer(self, index: int, slots: Tensor) -> LayerState:
        """Return a copy of the states of a layer in several slots, one row for each slot."""
        parts = self.att_shift, self.wkv, self.ffn_shift
        return LayerState(*(part.select(1, index).index_select(0, slots) for part in parts))


@dataclass(frozen=True, slots=True)
class PackedRows:
    """The R rows of n sequences, and the slots of their states.

    Sequence i consists of the rows begin[i] to begin[i + 1] - 1; it has at least one. The step
    reads slot read[i] and writes slot write[i]. A slot is never read by one sequence and written by
    another one in the same call. Several sequences may read one slot. A slot that is both read and
    written belongs to a sequence of one row. Only SPARE_SLOT may be written by several sequences;
    then its values do not matter.

    Attributes:
        sequence: (R,) int32, the number of the sequence of each row.
        begin: (n + 1,) int32, the first row of each sequence, then R.
        read: (n,) int32, the slot of the state before the rows.
        write: (n,) int32, the slot of the state after the rows.
        counts: the number of rows of each sequence, known to the host; all 1 in a captured graph.
        slots: the states.
    """

    sequence: Tensor
    begin: Tensor
    read: Tensor
    write: Tensor
    counts: tuple[int, ...]
    slots: Slots

    @property
    def is_decode(self) -> bool:
        """Whether each sequence has one row."""
        return len(self.counts) == len(self.sequence)

    @property
    def last(self) -> Tensor:
        """The last row of each sequence, (n,) int32."""
        return self.begin[1:] - 1


class Step(Protocol):
    """A network that runs packed rows.

    For decode, a call must not wait for the device, read its values on the host, or copy from main
    memory, because the engine captures it as a CUDA graph. It may allocate tensors.
    """

    kernels: str
    """A name for users of what computes, such as "PyTorch modules"."""

    def __call__(self, ids: Tensor, rows: PackedRows) -> Tensor:
        """Advance the states by ids (R,) int64.

        Returns:
            Logits (n, V) float32 after the last row of each sequence.
        """
        ...

    def hidden(self, ids: Tensor, rows: PackedRows) -> Tensor:
        """Advance the states; return the residual stream (R, D) float32 after each row."""
        ...

    def logits(self, X: Tensor) -> Tensor:
        """Convert a residual stream (..., D) to logits (..., V) float32."""
        ...
