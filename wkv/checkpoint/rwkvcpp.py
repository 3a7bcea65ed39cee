"""Open files of rwkv.cpp, with the names, shapes and values that they have there.

    magic u32, version 100 or 101, V, D, L, number format of most tensors         (int32 each)
    each tensor: number of axes, length of the name, number format, sizes, name, data

Sizes are stored with the fastest axis first. Nothing is aligned. `layouts.rwkvcpp` translates the
tensors to official ones.
Source: rwkv.cpp, docs/FILE_FORMAT.md and rwkv_file_format.inc.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wkv.checkpoint.blocks import BLOCK, FLOATS, SIZES, decode
from wkv.checkpoint.tensors import Checkpoint, unreadable
from wkv.errors import CheckpointError

LAYOUT = "rwkv.cpp"

MAGIC = b"fmgg"

OTHER_MAGICS = (b"lmgg", b"tjgg")
"""First bytes of files of early ggml programs, which have no RWKV models."""

KINDS = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q5_0", 8: "Q5_1", 9: "Q8_0"}
"""Number formats by their numbers in the file."""

OLDEST, NEWEST = 100, 101
"""Versions of the format. Quantized tensors of version 100 have another form."""

MAX_AXES, MAX_NAME = 3, 256


@dataclass(frozen=True)
class Stored:
    """A tensor in the file.

    Attributes:
        shape: sizes of the axes, the fastest one last.
        kind: number format, a name of KINDS.
        start: position of its first byte.
    """

    shape: tuple[int, ...]
    kind: str
    start: int

    @property
    def n_bytes(self) -> int:
        """The size of its data."""
        count = prod(self.shape)
        return (
            count * FLOATS[self.kind].itemsize
            if self.kind in FLOATS
            else (count // BLOCK * SIZES[self.kind])
        )


def open_rwkvcpp(path: Path) -> Checkpoint:
    """Open a file of rwkv.cpp; its tensors are mapped from the file and decoded on access.

    Raises:
        CheckpointError: if the file is damaged, or quantized in a form that wkv cannot read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tensors = _tensors(path, data)
    except (OSError, ValueError, MemoryError) as error:
        raise unreadable(path, error) from error
    matrices = {one.kind for one in tensors.values() if len(one.shape) > 1}
    decisive = {one.kind for name, one in tensors.items() if name.endswith(".key.weight")}
    return Checkpoint(
        path,
        LAYOUT,
        {name: one.shape for name, one in tensors.items()},
        {name: FLOATS.get(one.kind, torch.float32) for name, one in tensors.items()},
        partial(_read, path, tensors),
        stored_types=tuple(sorted(matrices)),
        auto_dtypes=frozenset(FLOATS.get(kind, torch.float16) for kind in decisive) or None,
    )


def _tensors(path: Path, data: mmap.mmap) -> dict[str, Stored]:
    """Return the tensors of a file by name."""
    if len(data) < 24:
        raise _damaged(path, "it ends within its header")
    (version,) = struct.unpack_from("<i", data, 4)
    if not OLDEST <= version <= NEWEST:
        raise CheckpointError(
            f"{path}: this is version {version} of rwkv.cpp's format, expected {OLDEST} or "
            f"{NEWEST}; convert the original again with a current rwkv.cpp, or give the original"
        )
    tensors: dict[str, Stored] = {}
    position = 24
    while position < len(data):
        name, tensor = _tensor(path, data, position)
        if name in tensors:
            raise _damaged(path, f"the tensor {name[:60]} occurs twice")
        if version == OLDEST and tensor.kind not in FLOATS:
            raise CheckpointError(
                f"{path}: {name[:60]} is quantized as rwkv.cpp did in early 2023; quantize the "
                "original again with a current rwkv.cpp, or give the original"
            )
        tensors[name] = tensor
        position = tensor.start + tensor.n_bytes
    return tensors


def _tensor(path: Path, data: mmap.mmap, position: int) -> tuple[str, Stored]:
    """Return the name and place of the tensor whose description begins at a position."""
    if position + 12 > len(data):
        raise _damaged(path, "it ends within the description of a tensor")
    n_axes, length, number = struct.unpack_from("<3i", data, position)
    if not 1 <= n_axes <= MAX_AXES or not 1 <= length <= MAX_NAME:
        raise _damaged(path, f"a tensor has {n_axes} axes and a name of {length} bytes")
    start = position + 12 + 4 * n_axes + length
    if start > len(data):
        raise _damaged(path, "it ends within the description of a tensor")
    sizes = struct.unpack_from(f"<{n_axes}i", data, position + 12)
    name = data[start - length : start].decode("utf-8", "replace")
    kind = KINDS.get(number)
    if kind is None:
        raise CheckpointError(
            f"{path}: {name[:60]} has the number format {number}, which wkv cannot read; expected "
            f"one of {', '.join(KINDS.values())}; give the original, or another quantization"
        )
    if min(sizes) < 1 or (kind not in FLOATS and sizes[0] % BLOCK):
        raise _damaged(path, f"{name[:60]} has the sizes {sizes} in {kind}")
    tensor = Stored(tuple(reversed(sizes)), kind, start)
    if start + tensor.n_bytes > len(data):
        raise _damaged(path, f"{name[:60]} is longer than the rest of the file")
    return name, tensor


def _read(path: Path, tensors: Mapping[str, Stored], name: str) -> Tensor:
    """Return a tensor of the file."""
    tensor = tensors[name]
    try:
        # In this mode a change would go to memory, never to the file.
        data = np.memmap(path, np.uint8, "c", tensor.start, tensor.n_bytes)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {name} cannot be read ({error}); the file changed after it was opened"
        ) from error
    is_aligned = data.ctypes.data % 4 == 0  # PyTorch needs aligned numbers
    return decode(tensor.kind, data if is_aligned else np.array(data)).reshape(tensor.shape)


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {problem}; the file is truncated or damaged, download it again"
    )
