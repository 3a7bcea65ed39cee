"""What a strategy means for a model: a placement for each of its layers.

A model of L layers has L + 1 to place: its blocks, and one more for ln_out and head. The embedding
is always on the CPU: a token needs one row of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from wkv.strategy.language import Segment, normalized


@dataclass(frozen=True)
class Placement:
    """Where and how a layer is kept.

    Attributes:
        device: where it is computed, and kept unless streamed.
        dtype: of the matrices and their products; vectors, norms and states are always float32.
        quantized: the matrices are ChatRWKV's int8, with products in `dtype`.
        streamed: the matrices stay in main memory and are copied to the device at each use.
        packed: "int8" or "int4" if the matrices are packed in groups of 32; see
            `wkv.checkpoint.packing`.
    """

    device: torch.device
    dtype: torch.dtype
    quantized: bool = False
    streamed: bool = False
    packed: str | None = None


@dataclass(frozen=True)
class Strategy:
    """A placement for each layer, and why it was picked.

    Attributes:
        layers: L + 1 placements, the last for ln_out and head.
        text: the strategy string, normalized.
        reason: one phrase where `auto` picked it; else empty.
    """

    layers: tuple[Placement, ...]
    text: str
    reason: str = ""

    def __str__(self) -> str:
        """In the language of strategy strings."""
        return self.text

    @property
    def device(self) -> torch.device:
        """Of the first layer."""
        return self.layers[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Of the first layer's products."""
        return self.layers[0].dtype

    @property
    def is_split(self) -> bool:
        """Whether the layers are on more than one device."""
        return len({layer.device for layer in self.layers}) > 1

    @property
    def is_packed(self) -> bool:
        """Whether some layers are packed in groups."""
        return any(layer.packed for layer in self.layers)

    def of(self, name: str) -> Placement:
        """The placement of a tensor by its official name."""
        if name.startswith("blocks."):
            return self.layers[int(name.split(".")[1])]
        if name.startswith("emb."):
            return Placement(torch.device("cpu"), self.dtype)
        return self.layers[-1]

    def on_cpu(self) -> "Strategy":
        """The same with every layer on the CPU: equal values, for a machine without the devices."""
        cpu = torch.device("cpu")
        layers = tuple(replace(layer, device=cpu, streamed=False) for layer in self.layers)
        return replace(self, layers=layers)

    def for_torch(self) -> "Strategy":
        """The same as PyTorch runs it: it has no fast products of fp16 on a CPU, so these are fp32.

        No bit of the weights is lost by that.
        """
        layers = tuple(
            replace(layer, dtype=torch.float32)
            if layer.device.type == "cpu" and layer.dtype == torch.float16
            else layer
            for layer in self.layers
        )
        return replace(self, layers=layers)


def place(segments: Sequence[Segment], n_layer: int, reason: str = "") -> Strategy:
    """The strategy that segments are for a model of n_layer blocks."""
    layers: list[Placement] = []
    for segment, (resident, streamed) in zip(segments, allocate(segments, n_layer), strict=True):
        device = torch.device(segment.device)
        here = Placement(device, segment.dtype, segment.quantized, packed=segment.packed)
        layers += [here] * resident + [replace(here, streamed=True)] * streamed
    return Strategy(tuple(layers), normalized(tuple(segments)), reason)


def allocate(segments: Sequence[Segment], n_layer: int) -> list[tuple[int, int]]:
    """How many of the n_layer + 1 layers each segment keeps and streams.

    1. Counts are given in order, until all layers are gone.
    2. The last segment with `+` streams all that are left; segments without a count get none.
    3. Without one, segments without a count share what is left: each in turn takes the whole part
       of (left / segments that still wait), so later ones get the excess. What then is left goes
       to the last segment.

    Source: the `rwkv` package, model.py; there an explicit `*0` is taken for no count.
    """
    left = n_layer + 1
    kept = []
    for segment in segments:
        kept.append(min(segment.count or 0, left))
        left -= kept[-1]
    streaming = [index for index, segment in enumerate(segments) if segment.streamed]
    if streaming:
        return [(n, left if index == streaming[-1] else 0) for index, n in enumerate(kept)]
    waiting = [index for index, segment in enumerate(segments) if segment.count is None]
    for position, index in enumerate(waiting):
        kept[index] = left // (len(waiting) - position)
        left -= kept[index]
    kept[-1] += left
    return [(n, 0) for n in kept]
