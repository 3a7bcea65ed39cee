"""Parse and write strategy strings in the language of ChatRWKV.

    strategy := segment ( '->' segment )*
    segment  := device ' ' dtype [ ' *' count ['+'] ]
    device   := 'cpu' | 'cuda' | 'cuda:' number | 'mps' | 'dml'
    dtype    := ( 'fp32' | 'fp16' | 'bf16' ) [ 'i8' ] | 'int8' | 'int4'

A count is the number of layers of a segment. With '+', these layers stay on the device and all
remaining layers are streamed to it. Spaces around `->` are optional. `int8` and `int4` are
extensions of wkv: weights packed in groups, on the CPU only. `fp32i8` and the like are ChatRWKV's
int8.

Source: the `rwkv` package, model.py. It accepts 'i4' and 'i3', which have no meaning there; here
they are refused.
"""

import re
from dataclasses import dataclass

import torch

from wkv.errors import StrategyError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

PACKED = ("int8", "int4")
"""Formats of `wkv.checkpoint.packing` that a strategy may name; their products are float32."""

ADVICE = "such as `cpu fp32`, `cuda fp16i8 *10 -> cpu fp32` or `cuda fp16 *10+`, or `auto`"

NAMES = "fp32, bf16 or fp16, each with or without i8 after it, or on the cpu int8 or int4"

MAX_DIGITS = 6
"""Limit of the digits of a count or a device number; more can only be a mistake."""

_DEVICE = re.compile(r"cpu|cuda(:(0|[1-9][0-9]*))?|mps|dml")
_WORD = re.compile(r"[^ \->*]+")
_COUNT = re.compile(r" \*(\d+)(\+?)")
_ARROW = re.compile(r" *-> *")


@dataclass(frozen=True)
class Segment:
    """One part of a strategy string.

    Attributes:
        device: such as "cpu" or "cuda:0".
        dtype: dtype of matrices and their products; if quantized, of the products only.
        quantized: whether matrices are ChatRWKV's int8.
        count: number of layers, or None if the string does not contain it.
        streamed: whether all remaining layers are streamed to the device.
        packed: "int8" or "int4" if matrices are packed in groups, otherwise None.
    """

    device: str
    dtype: torch.dtype
    quantized: bool = False
    count: int | None = None
    streamed: bool = False
    packed: str | None = None

    def __str__(self) -> str:
        """Write the segment as in a strategy string."""
        name = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        text = f"{self.device} {self.packed or name}{'i8' if self.quantized else ''}"
        if self.count is not None:
            text += f" *{self.count}{'+' if self.streamed else ''}"
        return text


def read_strategy(text: str) -> tuple[Segment, ...]:
    """Parse a strategy string into its segments.

    Raises:
        StrategyError: if the string is wrong; the message gives the position of the character.
    """
    reader = _Reader(text)
    segments = [_segment(reader)]
    while not reader.at_end():
        if not reader.take(_ARROW):
            reader.fail("expected `->` and another segment, or the end")
        segments.append(_segment(reader))
    return tuple(segments)


def normalized(segments: tuple[Segment, ...]) -> str:
    """Write segments as a strategy string, with ` -> ` between them."""
    return " -> ".join(map(str, segments))


class _Reader:
    """A strategy string and the current position of the parser."""

    def __init__(self, text: str) -> None:
        self.text = text.rstrip(" ")
        self.position = len(text) - len(text.lstrip(" "))

    def at_end(self) -> bool:
        return self.position >= len(self.text)

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match is not None:
            self.position = match.end()
        return match

    def fail(self, reason: str, position: int | None = None) -> None:
        """Raise an error that gives the position of a character, counted from 1."""
        position = self.position if position is None else position
        here = f"at {self.text[position:][:20]!r}" if position < len(self.text) else "at its end"
        raise StrategyError(f"strategy {self.text!r}, character {position + 1}, {here}: {reason}")


def _segment(reader: _Reader) -> Segment:
    start = reader.position
    word = reader.take(_WORD)
    device = word[0] if word else ""
    if not _DEVICE.fullmatch(device):
        reader.fail(f"expected a device: cpu, cuda, cuda:0, mps or dml; write it {ADVICE}", start)
    if len(device.partition(":")[2]) > MAX_DIGITS:
        reader.fail("no machine has so many devices", start)
    if not reader.take(re.compile(" ")):
        reader.fail(f"expected one space and a dtype: {NAMES}")
    dtype, quantized, packed = _dtype(reader, device)
    start = reader.position
    count = reader.take(_COUNT)
    if count is None and reader.text.startswith("*", start + (reader.text[start:][:1] == " ")):
        reader.fail("expected one space, `*` and a number of layers, such as ` *10` or ` *10+`")
    if count is None:
        return Segment(device, dtype, quantized, packed=packed)
    if len(count[1]) > MAX_DIGITS:
        reader.fail("no model has so many layers", start)
    return Segment(device, dtype, quantized, int(count[1]), bool(count[2]), packed)


def _dtype(reader: _Reader, device: str) -> tuple[torch.dtype, bool, str | None]:
    """Parse a dtype: PyTorch's dtype, whether it is ChatRWKV's int8, and the packed format."""
    start = reader.position
    word = reader.take(_WORD)
    name = word[0] if word else ""
    base = name.removesuffix("i8")
    if name in PACKED and device == "cpu":
        return torch.float32, False, name
    if name in PACKED:
        reader.fail(f"{name} (weights packed in groups) runs on the cpu; here use fp16i8", start)
    if name[:4] in DTYPES and name[4:] in ("i4", "i3"):
        reader.fail(f"{name} is not a supported dtype; use {name[:4]}i8", start)
    if base not in DTYPES:
        reader.fail(f"expected a dtype: {NAMES}", start)
    if device == "cpu" and name == "fp16i8":
        reader.fail("fp16i8 is for GPUs; on the cpu use int8, or ChatRWKV's bf16i8", start)
    return DTYPES[base], name != base, None
