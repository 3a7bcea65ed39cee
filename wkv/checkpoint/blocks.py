"""Decode the number formats of ggml in which blocks of 32 values share a scale.

    Q4_0  d, 16 bytes q            w = d (q - 8)
    Q4_1  d, m, 16 bytes q         w = d q + m
    Q5_0  d, 4 bytes h, 16 bytes q w = d (q - 16)
    Q5_1  d, m, 4 bytes h, 16 q    w = d q + m
    Q8_0  d, 32 int8 q             w = d q

d and m are fp16. The low halves of the 16 bytes are the low four bits of the first 16 values, the
high halves those of the others. Bit i of h is the fifth bit of value i.
Source: ggml, src/ggml-common.h; rwkv.cpp, docs/FILE_FORMAT.md.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

BLOCK = 32
"""Values in a block."""

SIZES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34}
"""Bytes in a block."""

FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The number formats without blocks."""


def decode(kind: str, data: np.ndarray) -> Tensor:
    """Return the values of blocks in float32, or of numbers in their own dtype.

    Args:
        kind: a name of SIZES or FLOATS.
        data: the bytes, uint8. Numbers without blocks share their memory.
    """
    stored = torch.from_numpy(data)
    if kind in FLOATS:
        return stored.view(FLOATS[kind])
    return _DECODERS[kind](stored.view(-1, SIZES[kind]))


def _half(blocks: Tensor, start: int) -> Tensor:
    """Return the fp16 number at a byte of each block, as (n, 1) float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _halves(pairs: Tensor) -> Tensor:
    """Return the low halves of bytes (n, 16), followed by the high halves."""
    return torch.cat([pairs & 15, pairs >> 4], dim=1)


def _fives(high: Tensor, pairs: Tensor) -> Tensor:
    """Return the numbers of five bits: their fifth bits are in `high` (n, 4)."""
    bits = high[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return _halves(pairs) + (bits.flatten(1) << 4)


def _q4_0(blocks: Tensor) -> Tensor:
    return _halves(blocks[:, 2:]).float().sub_(8).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    return _halves(blocks[:, 4:]).float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    return _fives(blocks[:, 2:6], blocks[:, 6:]).float().sub_(16).mul_(_half(blocks, 0))


def _q5_1(blocks: Tensor) -> Tensor:
    numbers = _fives(blocks[:, 4:8], blocks[:, 8:]).float()
    return numbers.mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0
}  # fmt: skip
