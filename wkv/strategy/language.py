"""The language of strategy strings, as ChatRWKV's users write it.

    strategy := segment ( '->' segment )*
    segment  := device ' ' dtype [ ' *' count ['+'] ]
    device   := 'cpu' | 'cuda' | 'cuda:' number | 'mps' | 'dml'
    dtype    := ( 'fp32' | 'fp16' | 'bf16' ) [ 'i8' ] | 'int8' | 'int4'

A count gives a segment so many layers; with '+' it keeps so many in place and streams all that are
left. Blanks around `->` are free. `int8` and `int4` are ours: weights packed in groups, on the
CPU only; `fp32i8` and the like are ChatRWKV's int8.

Source: the `rwkv` package, model.py. There 'i4' and 'i3' are accepted and mean nothing; here they
are refused.
"""

import re
from dataclasses import dataclass

import torch

from wkv.errors import StrategyError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

PACKED = ("int8", "int4")
"""Formats of `wkv.checkpoint.packing` that a strategy names; their products are in float32."""

ADVICE = "such as `cpu fp32`, `cuda fp16i8 *10 -> cpu fp32` or `cuda fp16 *10+`, or `auto`"

NAMES = "fp32, bf16 or fp16, with i8 behind them or not, or on the cpu int8 or int4"

MOST_DIGITS = 6
"""Of a count or a device's number; more can only be a mistake."""

_DEVICE = re.compile(r"cpu|cuda(:(0|[1-9][0-9]*))?|mps|dml")
_WORD = re.compile(r"[^ \->*]+")
_COUNT = re.compile(r" \*(\d+)(\+?)")
_ARROW = re.compile(r" *-> *")


@dataclass(frozen=True)
class Segment:
    """One part of a strategy string.

    Attributes:
        device: such as "cpu" or "cuda:0".
        dtype: of matrices and their products; of the products alone where quantized.
        quantized: whether matrices are ChatRWKV's int8.
        packed: "int8" or "int4" where matrices are packed in groups; else None.
        count: layers that were asked for; None if the string does not say.
        streamed: whether it takes all layers that are left, and streams them.
    """

    device: str
    dtype: torch.dtype
    quantized: bool = False
    count: int | None = None
    streamed: bool = False
    packed: str | None = None

    def __str__(self) -> str:
        """As it is written in a strategy string."""
        name = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)
        text = f"{self.device} {self.packed or name}{'i8' if self.quantized else ''}"
        if self.count is not None:
            text += f" *{self.count}{'+' if self.streamed else ''}"
        return text


def read_strategy(text: str) -> tuple[Segment, ...]:
    """The segments of a strategy string.

    Raises:
        StrategyError: points at the character that is wrong.
    """
    reader = _Reader(text)
    segments = [_segment(reader)]
    while not reader.at_end():
        if not reader.take(_ARROW):
            reader.fail("expected `->` and another segment, or the end")
        segments.append(_segment(reader))
    return tuple(segments)


def normalized(segments: tuple[Segment, ...]) -> str:
    """The string of segments, with ` -> ` between them."""
    return " -> ".join(map(str, segments))


class _Reader:
    """A string and how far it was read."""

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

    def fail(self, what: str, position: int | None = None) -> None:
        """Raise an error that points at a character, counted from 1."""
        position = self.position if position is None else position
        here = f"at {self.text[position:][:20]!r}" if position < len(self.text) else "at its end"
        raise StrategyError(f"strategy {self.text!r}, character {position + 1}, {here}: {what}")


def _segment(reader: _Reader) -> Segment:
    begun = reader.position
    word = reader.take(_WORD)
    device = word[0] if word else ""
    if not _DEVICE.fullmatch(device):
        reader.fail(f"expected a device: cpu, cuda, cuda:0, mps or dml; write it {ADVICE}", begun)
    if len(device.partition(":")[2]) > MOST_DIGITS:
        reader.fail("no machine has so many devices", begun)
    if not reader.take(re.compile(" ")):
        reader.fail(f"expected one blank and a dtype: {NAMES}")
    dtype, quantized, packed = _dtype(reader, device)
    begun = reader.position
    count = reader.take(_COUNT)
    if count is None and reader.text.startswith("*", begun + (reader.text[begun:][:1] == " ")):
        reader.fail("expected one blank, `*` and a number of layers, such as ` *10` or ` *10+`")
    if count is None:
        return Segment(device, dtype, quantized, packed=packed)
    if len(count[1]) > MOST_DIGITS:
        reader.fail("no model has so many layers", begun)
    return Segment(device, dtype, quantized, int(count[1]), bool(count[2]), packed)


def _dtype(reader: _Reader, device: str) -> tuple[torch.dtype, bool, str | None]:
    """A dtype, whether it is ChatRWKV's int8, and the packed format if it is one."""
    begun = reader.position
    word = reader.take(_WORD)
    name = word[0] if word else ""
    base = name.removesuffix("i8")
    if name in PACKED and device == "cpu":
        return torch.float32, False, name
    if name in PACKED:
        reader.fail(f"{name} (weights packed in groups) runs on the cpu; here use fp16i8", begun)
    if name[:4] in DTYPES and name[4:] in ("i4", "i3"):
        reader.fail(f"{name} is not a dtype that ever worked; use {name[:4]}i8", begun)
    if base not in DTYPES:
        reader.fail(f"expected a dtype: {NAMES}", begun)
    if device == "cpu" and name == "fp16i8":
        reader.fail("fp16i8 is for GPUs; on the cpu use int8, or ChatRWKV's bf16i8", begun)
    return DTYPES[base], name != base, None
