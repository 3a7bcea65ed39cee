"""Read the header of a GGUF file: its fields, and the place and type of each tensor.

    "GGUF", version u32, number of tensors u64, number of fields u64
    each field:   key, type u32, value
    each tensor:  name, number of axes u32, size u64 of each, type u32, offset u64

All numbers are little endian. A string is its length u64 and its bytes. Sizes are stored with the
fastest axis first, so they are reversed here. Offsets count from the end of the header, which is
padded to a multiple of `general.alignment`.

A file may come from anywhere. Every count and length is compared with the bytes that are left
before memory is allocated for it.
Source: ggml, docs/gguf.md.
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from wkv.checkpoint.tensors import unreadable
from wkv.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)

NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Field types that are numbers, with their codes for `struct`."""

STRING, ARRAY = 8, 9
"""Field types."""

MAX_DEPTH = 2
"""Largest depth of arrays within arrays."""

MAX_AXES = 4

MAX_ALIGNMENT = 2**16


@dataclass(frozen=True)
class BlockType:
    """A number format of GGUF, in which blocks of values share scales.

    Attributes:
        name: name in ggml, such as "Q8_0".
        values: number of values in a block.
        n_bytes: size of a block.
    """

    name: str
    values: int
    n_bytes: int


BLOCK_TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
}
"""The types of tensors that can be read, by their numbers in ggml."""

RETIRED = {31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"}
"""Rearranged forms of Q4_0 that llama.cpp no longer reads either."""


@dataclass(frozen=True)
class GGUFTensor:
    """The place of a tensor in the file.

    Attributes:
        shape: sizes of the axes, the fastest one last.
        type: number format.
        start: position of its first byte in the file.
    """

    shape: tuple[int, ...]
    type: BlockType
    start: int

    @property
    def n_bytes(self) -> int:
        """The size of its data."""
        return prod(self.shape) // self.type.values * self.type.n_bytes


@dataclass(frozen=True)
class GGUFHeader:
    """The header of a file.

    Attributes:
        path: the file.
        fields: key to number, text or list.
        tensors: name to place.
    """

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


def read_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file.

    Raises:
        CheckpointError: if the file is truncated, damaged, split into parts, or has tensors of a
            type that wkv cannot read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Parser(path, data).header()
    except (OSError, ValueError, MemoryError) as error:
        raise unreadable(path, error) from error


class _Parser:
    """Reads a header from the bytes of a file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._position = path, data, len(MAGIC)

    def header(self) -> GGUFHeader:
        version = self._number("I")
        if version not in VERSIONS:
            big = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            kind = "big endian, which wkv cannot read" if big else f"version {version} of GGUF"
            raise self._error(f"this is {kind}, expected version 2 or 3 in little endian")
        n_tensors, n_fields = self._count(24), self._count(13)
        fields: dict[str, Any] = {}
        for _ in range(n_fields):
            key = self._text()
            if key in fields:
                raise self._error(f"the field {key[:60]} occurs twice")
            fields[key] = self._value(self._number("I"), 0)
        if isinstance(parts := fields.get("split.count"), int) and parts > 1:
            raise self._error(
                f"this is one of {parts} parts of a model; join them with `llama-gguf-split "
                "--merge FIRST_PART MODEL.gguf`, and give the result"
            )
        tensors = dict[str, GGUFTensor]()
        for _ in range(n_tensors):
            name, tensor = self._tensor()
            if name in tensors:
                raise self._error(f"the tensor {name[:60]} occurs twice")
            tensors[name] = tensor
        return GGUFHeader(self._path, fields, self._placed(tensors, fields))

    def _placed(
        self, tensors: Mapping[str, GGUFTensor], fields: Mapping[str, Any]
    ) -> dict[str, GGUFTensor]:
        """Return the tensors with positions in the file, after checking that they fit into it."""
        alignment = fields.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment % 8:
            raise self._error(f"general.alignment is {alignment!r}, expected a multiple of 8")
        start = -(-self._position // alignment) * alignment
        placed = {
            name: GGUFTensor(tensor.shape, tensor.type, start + tensor.start)
            for name, tensor in tensors.items()
        }
        end = start
        for name, tensor in sorted(placed.items(), key=lambda item: item[1].start):
            if tensor.start < end or (tensor.start - start) % alignment:
                raise self._error(f"the data of {name[:60]} overlaps another tensor's")
            end = tensor.start + tensor.n_bytes
            if end > len(self._data):
                raise self._error(
                    f"{name[:60]} ends at byte {end} of a file of {len(self._data)} bytes; it was "
                    "not downloaded completely"
                )
        return placed

    def _tensor(self) -> tuple[str, GGUFTensor]:
        """Read the name and description of a tensor; its start is relative to the data."""
        name = self._text()
        n_axes = self._number("I")
        if not 1 <= n_axes <= MAX_AXES:
            raise self._error(f"{name[:60]} has {n_axes} axes, expected 1 to {MAX_AXES}")
        sizes = [self._number("Q") for _ in range(n_axes)]
        number, offset = self._number("I"), self._number("Q")
        kind = BLOCK_TYPES.get(number)
        if kind is None:
            shown = RETIRED.get(number, f"type {number}")
            raise self._error(
                f"{name[:60]} is stored as {shown}, which wkv cannot read; take another "
                "quantization of the model, such as Q8_0 or Q4_K_M"
            )
        if not all(1 <= size <= 2**40 for size in sizes) or sizes[0] % kind.values:
            raise self._error(
                f"{name[:60]} has the sizes {sizes}, and {kind.name} needs a multiple of "
                f"{kind.values}"
            )
        return name, GGUFTensor(tuple(reversed(sizes)), kind, offset)

    def _value(self, kind: int, depth: int) -> Any:
        """Read a value of a field."""
        if kind in NUMBERS:
            return self._number(NUMBERS[kind])
        if kind == STRING:
            return self._text()
        if kind != ARRAY or depth == MAX_DEPTH:
            raise self._error(f"a field has the type {kind}, expected 0 to 12")
        item = self._number("I")
        if item in NUMBERS:
            code = NUMBERS[item]
            count = self._count(struct.calcsize(f"<{code}"))
            return list(
                struct.unpack(f"<{count}{code}", self._bytes(struct.calcsize(f"<{count}{code}")))
            )
        count = self._count(8)
        read: Callable[[], Any] = (
            self._text if item == STRING else lambda: self._value(item, depth + 1)
        )
        return [read() for _ in range(count)]

    def _count(self, smallest: int) -> int:
        """Read the number of items that follow, each of which takes at least `smallest` bytes."""
        count = int(self._number("Q"))
        left = len(self._data) - self._position
        if count > left // smallest:
            raise self._error(f"it announces {count} items where {left} bytes are left")
        return count

    def _text(self) -> str:
        return self._bytes(self._count(1)).decode("utf-8", "replace")

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]

    def _bytes(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise self._error("it ends within its header")
        self._position, start = end, self._position
        return self._data[start:end]

    def _error(self, problem: str) -> CheckpointError:
        ending = "" if ";" in problem else "; the file is truncated or damaged, download it again"
        return CheckpointError(f"{self._path}: {problem}{ending}")
