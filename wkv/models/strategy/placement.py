"""Assign a device and a dtype to each layer of a model according to a strategy.

A model of L blocks has L + 1 layers to place: its blocks, and one layer of ln_out and head. The
embedding is always on the CPU, because a token needs only one row of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wkv.models.strategy.language import Segment, normalized


@dataclass(frozen=True)
class Placement:
    """The device, the dtype and the storage format of one layer.

    Attributes:
        device: device on which the layer is computed, and stored unless it is streamed.
        dtype: dtype of the matrices and their products; vectors, norms and states are always
            float32.
        quantized: whether the matrices are ChatRWKV's int8, with products in `dtype`.
        streamed: whether the matrices stay in main memory and are copied to the device for each
            use.
        packed: "int8" or "int4" if the matrices are packed in groups of 32, otherwise None; see
            `wkv.checkpoint.packing`.
    """

    device: torch.device
    dtype: torch.dtype
    quantized: bool = False
    streamed: bool = False
    packed: str | None = None


@dataclass(frozen=True)
class Strategy:
    """The placements of all layers of a model.

    Attributes:
        layers: L + 1 placements; the last one is that of ln_out and head.
        text: the normalized strategy string.
        reason: a phrase that explains the choice of `auto`; empty if the user gave the strategy.
    """

    layers: tuple[Placement, ...]
    text: str
    reason: str = ""

    def __str__(self) -> str:
        """Return the normalized strategy string."""
        return self.text

    @property
    def device(self) -> torch.device:
        """The device of the first layer."""
        return self.layers[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first layer's products."""
        return self.layers[0].dtype

    @property
    def is_split(self) -> bool:
        """Whether the layers are on more than one device."""
        return len({layer.device for layer in self.layers}) > 1

    @property
    def is_packed(self) -> bool:
        """Whether any layer has matrices that are packed in groups."""
        return any(layer.packed for layer in self.layers)

    def placement_of(self, name: str) -> Placement:
        """Return the placement of a tensor by its official name."""
        if name.startswith("blocks."):
            return self.layers[int(name.split(".")[1])]
        if name.startswith("emb."):
            return Placement(torch.device("cpu"), self.dtype)
        return self.layers[-1]

    def on_cpu(self) -> "Strategy":
        """Return the strategy with all layers on the CPU, for machines without the devices.

        The values of the weights are the same.
        """
        cpu = torch.device("cpu")
        layers = tuple(replace(layer, device=cpu, streamed=False) for layer in self.layers)
        return replace(self, layers=layers)

    def for_torch(self) -> "Strategy":
        """Return the strategy with fp32 instead of fp16 on the CPU.

        PyTorch has no fast fp16 products on CPUs. No bit of the weights is lost.
        """
        layers = tuple(
            replace(layer, dtype=torch.float32)
            if layer.device.type == "cpu" and layer.dtype == torch.float16
            else layer
            for layer in self.layers
        )
        return replace(self, layers=layers)


def place(segments: Sequence[Segment], n_layer: int, reason: str = "") -> Strategy:
    """Apply the segments of a strategy string to a model of n_layer blocks."""
    layers: list[Placement] = []
    for segment, (resident, streamed) in zip(segments, allocate(segments, n_layer), strict=True):
        device = torch.device(segment.device)
        here = Placement(device, segment.dtype, segment.quantized, packed=segment.packed)
        layers += [here] * resident + [replace(here, streamed=True)] * streamed
    return Strategy(tuple(layers), normalized(tuple(segments)), reason)


def allocate(segments: Sequence[Segment], n_layer: int) -> list[tuple[int, int]]:
    """Return the numbers of resident and of streamed layers of each segment.

    The n_layer + 1 layers are distributed as follows:

    1. Segments with a count get that number of layers, in order, while layers remain.
    2. If segments have a `+`, the last of these streams all remaining layers, and segments without
       a count get none.
    3. Otherwise the segments without a count share the remaining layers: each in turn gets
       floor(remaining layers / remaining segments), so later ones may get one more. Layers that
       then still remain go to the last segment.

    Source: the `rwkv` package, model.py, which treats an explicit `*0` like no count.
    """
    left = n_layer + 1
    resident = []
    for segment in segments:
        resident.append(min(segment.count or 0, left))
        left -= resident[-1]
    streaming = [index for index, segment in enumerate(segments) if segment.streamed]
    if streaming:
        return [(n, left if index == streaming[-1] else 0) for index, n in enumerate(resident)]
    uncounted = [index for index, segment in enumerate(segments) if segment.count is None]
    for position, index in enumerate(uncounted):
        resident[index] = left // (len(uncounted) - position)
        left -= resident[index]
    resident[-1] += left
    return [(n, 0) for n in resident]
