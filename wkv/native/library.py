"""The compiled library: its location, the kernels this CPU can run, and its C interface.

`library()` loads the library on first use. If it was not built (for example, if there was no
compiler when wkv was installed), `missing_reason()` returns the reason, and models run on PyTorch.
"""

import ctypes
import functools
import importlib.util
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_int,
    c_int64,
    c_size_t,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

from wkv.native.steps import STRUCTS

VERSION = 5
"""Version of the interface, equal to VERSION in `source/interface.cpp`."""

TRAINING = [c_char_p, c_int, c_int64, c_int64, c_int64, c_int64]
"""Kernels, threads, batch, tokens, heads and head size of a training pass."""

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "wkv_version": (c_int, []),
    "wkv_kernels": (c_char_p, []),
    "wkv_step_size": (c_int, [c_int]),
    "wkv_form": (c_int, [c_char_p, c_int]),
    "wkv_plan": (c_void_p, [c_char_p, c_int]),
    "wkv_plan_free": (None, [c_void_p]),
    "wkv_skip_zeros": (None, [c_void_p, c_int]),
    "wkv_matrix": (c_int, [c_void_p, c_int, c_int, c_int, c_int, c_void_p]),
    "wkv_vector": (c_int, [c_void_p, c_void_p]),
    "wkv_buffer": (c_int, [c_void_p, c_int]),
    "wkv_inputs": (c_int, [c_void_p, c_int, c_int, c_int]),
    "wkv_widths": (None, [c_void_p, c_int, c_int]),
    "wkv_step": (c_int, [c_void_p, c_int, c_int, c_int, c_void_p]),
    "wkv_body": (c_int, [c_void_p, c_int, *[c_void_p] * 6]),
    "wkv_rewind": (c_int, [c_void_p, c_int, *[c_void_p] * 5]),
    "wkv_head": (c_int, [c_void_p, c_int, c_void_p, c_void_p]),
    "wkv_product": (
        c_int,
        [c_char_p, c_int, c_int, c_int, c_int, c_void_p, c_int, c_void_p, c_void_p, c_int],
    ),
    "wkv_stream": (c_double, [c_char_p, c_void_p, c_size_t, c_int, POINTER(c_uint64)]),
    "wkv_race": (None, [c_int64, c_int64, *[c_void_p] * 5]),
    "wkv_training_chunk": (c_int, []),
    "wkv_training_forward": (c_int, [*TRAINING, *[c_void_p] * 11]),
    "wkv_training_backward": (c_int, [*TRAINING, *[c_void_p] * 17]),
}


class LibraryMissing(Exception):
    """The native library is missing or cannot be loaded; the message is the reason."""


@functools.cache
def library() -> ctypes.CDLL:
    """Return the library with the types of its functions.

    Raises:
        LibraryMissing: if it was not built or cannot be loaded.
    """
    found = importlib.util.find_spec("wkv.native._engine")
    if found is None or found.origin is None:
        raise LibraryMissing(
            "it was not built when wkv was installed: there was no C++ compiler, or it failed"
        )
    return open_library(Path(found.origin))


def open_library(path: Path) -> ctypes.CDLL:
    """Load the library at a path.

    Raises:
        LibraryMissing: if it cannot be loaded or does not match this version of wkv.
    """
    try:
        opened = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{path} cannot be loaded ({error})") from error
    reason = _mismatch(opened)
    if reason is not None:
        raise LibraryMissing(f"{path} does not match this version of wkv ({reason}); reinstall wkv")
    return opened


def _mismatch(opened: ctypes.CDLL) -> str | None:
    """Return how the interface of a library differs from this file, or None if it does not."""
    if opened.wkv_version() != VERSION:
        return f"its interface has version {opened.wkv_version()}, expected {VERSION}"
    for struct in STRUCTS:
        size, expected = opened.wkv_step_size(struct.kind), ctypes.sizeof(struct)
        if size != expected:
            return f"a {struct.kind.name} step has {size} bytes, expected {expected}"
    return None


def missing_reason() -> str | None:
    """Return why the library cannot be used, or None if it can."""
    try:
        library()
    except LibraryMissing as error:
        return str(error)
    return None


def kernels() -> tuple[str, ...]:
    """Return the names of the kernels that this CPU can run, fastest first."""
    return tuple(library().wkv_kernels().decode().split())
