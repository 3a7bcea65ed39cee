"""Read and write files of token ids: binidx (Megatron, RWKV-LM) and plain arrays.

A binidx data set is a pair of files. `.idx`, little-endian: the bytes MMIDIDX and two zeros, u64
version 1, u8 code of the dtype, u64 n sequences, u64 m document boundaries, i32 sizes[n], i64 byte
offsets[n], i64 boundaries[m]. `.bin`: the ids, one after another.

Source: Megatron-LM, indexed_dataset.py; RWKV-LM, src/binidx.py.
"""

import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from wkv.errors import InputError, TrainingError
from wkv.files import atomic_write

MAGIC, VERSION = b"MMIDIDX\x00\x00", 1
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Codes of whole numbers; codes 6 and 7 are floats."""

U16 = 8


def binidx_pair(path: Path) -> tuple[Path, Path] | None:
    """Return the files of a binidx data set that is named by a prefix or one file; else None."""
    stem = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    idx, data = stem.parent / f"{stem.name}.idx", stem.parent / f"{stem.name}.bin"
    return (idx, data) if idx.is_file() and data.is_file() else None


def read_binidx(idx: Path, data: Path) -> list[np.ndarray]:
    """Return the documents of a binidx data set, mapped from the file.

    Raises:
        InputError: if the index is damaged, contains floats, or does not fit the data.
    """
    content = idx.read_bytes()
    if len(content) < HEADER.size or content[: len(MAGIC)] != MAGIC:
        raise InputError(f"{idx} does not begin with MMIDIDX; give the .idx of a binidx data set")
    _, version, code, n, m = HEADER.unpack_from(content)
    if version != VERSION or code not in DTYPES:
        raise InputError(
            f"{idx} has version {version} and the dtype code {code}; expected version 1 and one "
            f"of the codes {', '.join(map(str, DTYPES))}"
        )
    if len(content) != HEADER.size + 12 * n + 8 * m:
        raise InputError(
            f"{idx} has {len(content)} bytes and should have {HEADER.size + 12 * n + 8 * m} for "
            f"{n} sequences; it is incomplete, copy it again"
        )
    sizes = np.frombuffer(content, "<i4", n, HEADER.size).astype(np.int64)
    offsets = np.frombuffer(content, "<i8", n, HEADER.size + 4 * n)
    boundaries = np.frombuffer(content, "<i8", m, HEADER.size + 12 * n)
    width = np.dtype(DTYPES[code]).itemsize
    ids = np.memmap(data, DTYPES[code], "r") if data.stat().st_size >= width else np.zeros(0, "u1")
    starts = offsets // width
    if n and (int((starts + sizes).max()) > len(ids) or int(min(starts.min(), sizes.min())) < 0):
        raise InputError(f"{data} is shorter than {idx} says; it is incomplete, copy it again")
    if not m or boundaries[0] != 0 or boundaries[-1] != n:
        boundaries = np.arange(n + 1)
    return [
        np.concatenate([ids[starts[i] : starts[i] + sizes[i]] for i in range(first, last)])
        for first, last in zip(boundaries[:-1].tolist(), boundaries[1:].tolist(), strict=True)
        if last > first
    ]


def write_binidx(prefix: Path, documents: Sequence[Sequence[int]]) -> None:
    """Write documents as a binidx data set of u16 ids, as RWKV-LM reads it.

    Raises:
        InputError: if an id does not fit into 16 bits.
        TrainingError: if a file cannot be written.
    """
    sizes = np.array([len(document) for document in documents], "<i4")
    ids = np.concatenate([np.asarray(document, np.int64) for document in documents])
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < 2**16:
        raise InputError(f"an id is {int(ids.max())}, and binidx files of RWKV have 16 bits")
    offsets = 2 * np.concatenate([[0], np.cumsum(sizes[:-1], dtype=np.int64)]).astype("<i8")
    count = len(sizes)
    content = HEADER.pack(MAGIC, VERSION, U16, count, count + 1)
    content += sizes.tobytes() + offsets.tobytes() + np.arange(count + 1, dtype="<i8").tobytes()
    for ending, part in ((".bin", ids.astype("<u2").tobytes()), (".idx", content)):
        path = prefix.parent / f"{prefix.name}{ending}"
        atomic_write(path, partial(_write_bytes, part), error_type=TrainingError)


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def read_array(path: Path) -> np.ndarray:
    """Return the ids of a `.npy` file, or of a `.bin` file of u16 (nanoGPT's form).

    Raises:
        InputError: if it is damaged or does not contain one row of whole numbers.
    """
    try:
        ids = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, "<u2", "r")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an array of ids ({error})") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"{path} has {ids.dtype} of shape {ids.shape}, expected one row of ids")
    return ids
