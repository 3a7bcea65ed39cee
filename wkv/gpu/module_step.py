"""A step that runs PyTorch's modules of any generation on packed rows and slots.

slots -> copies of the old states -> modules -> new states -> slots
"""

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from wkv.gpu.rows import PackedRows, Slots
from wkv.models.parts import Skeleton
from wkv.models.state import LayerState


class ModuleStep:
    """A step that runs the modules of a network; see `wkv.gpu.rows.Step`.

    Attributes:
        network: the network, with all tensors on one device.
    """

    kernels = "PyTorch modules"

    def __init__(self, network: Skeleton) -> None:
        self.network = network

    def __call__(self, ids: Tensor, rows: PackedRows) -> Tensor:
        """Advance the states by ids (R,); return logits (n, V) after each sequence's last row."""
        X = self.hidden(ids, rows)
        return self.logits(X if rows.is_decode else X[rows.last])

    def hidden(self, ids: Tensor, rows: PackedRows) -> Tensor:
        """Advance the states; return the residual stream (R, D) after each row."""
        old = _CopiedLayers(rows.slots, rows.read)
        X: Tensor
        if len(set(rows.counts)) == 1:
            X, new = self.network(ids.view(len(rows.counts), -1), old)
            X = X.flatten(0, 1)
        else:
            X, new = self._padded(ids, rows, old)
        _write(rows.slots, rows.write.long(), new)
        return X

    def logits(self, X: Tensor) -> Tensor:
        """Convert a residual stream (..., D) to logits (..., V) float32."""
        logits: Tensor = self.network.logits(X)
        return logits

    def _padded(
        self, ids: Tensor, rows: PackedRows, old: Sequence[LayerState]
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Run sequences of different lengths, padded on the right with any of the ids."""
        begin, sequence = rows.begin.long(), rows.sequence.long()
        place = torch.arange(max(rows.counts), device=ids.device)
        rectangle = (begin[:-1, None] + place).clamp(max=len(ids) - 1)
        X, new = self.network(ids[rectangle], old, begin.diff())
        place = torch.arange(len(ids), device=ids.device) - begin[sequence]
        return X[sequence, place], new


class _CopiedLayers(Sequence[LayerState]):
    """The states in some slots; the recurrent state of a layer is copied when it is asked for."""

    def __init__(self, slots: Slots, numbers: Tensor) -> None:
        self._slots, self._numbers = slots, numbers
        self._att_shift = slots.att_shift.index_select(0, numbers)
        self._ffn_shift = slots.ffn_shift.index_select(0, numbers)

    def __len__(self) -> int:
        return self._att_shift.shape[1]

    @overload
    def __getitem__(self, index: int) -> LayerState: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[LayerState, ...]: ...

    def __getitem__(self, index: int | slice) -> LayerState | tuple[LayerState, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        wkv = self._slots.wkv[:, range(len(self))[index]].index_select(0, self._numbers)
        return LayerState(self._att_shift[:, index], wkv, self._ffn_shift[:, index])


def _write(slots: Slots, numbers: Tensor, layers: Sequence[LayerState]) -> None:
    """Write new states into slots, int64."""
    slots.att_shift.index_copy_(0, numbers, torch.stack([one.att_shift for one in layers], 1))
    slots.ffn_shift.index_copy_(0, numbers, torch.stack([one.ffn_shift for one in layers], 1))
    for index, layer in enumerate(layers):
        slots.wkv[:, index].index_copy_(0, numbers, layer.wkv)
