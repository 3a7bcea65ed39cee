"""The compiled library: where it is, what this CPU lets it do, and its C interface.

`library()` loads it when it is first asked for. Where it was not built (no compiler when wkv was
installed, say) `missing()` tells why, and models run on PyTorch.
"""

import ctypes
import functools
import importlib.util
from ctypes import (
    POINTER,
    c_char_p,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_size_t,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any

VERSION = 1
"""Of the interface; the library answers the same, or is of another wkv."""

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "wkv_version": (c_int, []),
    "wkv_kernels": (c_char_p, []),
    "wkv_form": (c_int, [c_char_p, c_int]),
    "wkv_plan": (c_void_p, [c_char_p, c_int]),
    "wkv_plan_free": (None, [c_void_p]),
    "wkv_skip_zeros": (None, [c_void_p, c_int]),
    "wkv_matrix": (c_int, [c_void_p, c_int, c_int, c_int, c_int, c_void_p]),
    "wkv_vector": (c_int, [c_void_p, c_void_p]),
    "wkv_buffer": (c_int, [c_void_p, c_int]),
    "wkv_inputs": (c_int, [c_void_p, c_int, c_int, c_int]),
    "wkv_widths": (None, [c_void_p, c_int, c_int]),
    "wkv_step": (c_int, [c_void_p, c_int, c_int, c_int, POINTER(c_int32), c_int, c_float]),
    "wkv_body": (c_int, [c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p]),
    "wkv_head": (c_int, [c_void_p, c_int, c_void_p, c_void_p]),
    "wkv_product": (
        c_int,
        [c_char_p, c_int, c_int, c_int, c_int, c_void_p, c_int, c_void_p, c_void_p, c_int],
    ),
    "wkv_stream": (c_double, [c_char_p, c_void_p, c_size_t, c_int, POINTER(c_uint64)]),
}


class LibraryMissing(Exception):
    """The engine's library is not there, or cannot be loaded; says why."""


@functools.cache
def library() -> ctypes.CDLL:
    """The library, with the types of its functions.

    Raises:
        LibraryMissing: if it was not built, or cannot be loaded here.
    """
    found = importlib.util.find_spec("wkv.native._engine")
    if found is None or found.origin is None:
        raise LibraryMissing(
            "it was not built when wkv was installed: there was no C++ compiler, or it failed"
        )
    return open_library(Path(found.origin))


def open_library(path: Path) -> ctypes.CDLL:
    """A library at a path.

    Raises:
        LibraryMissing: if it cannot be loaded or is of another version.
    """
    try:
        opened = ctypes.CDLL(str(path))
        for name, (result, arguments) in FUNCTIONS.items():
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibraryMissing(f"{path} cannot be loaded ({error})") from error
    if opened.wkv_version() != VERSION:
        raise LibraryMissing(f"{path} is of another version of wkv; install wkv again")
    return opened


def missing() -> str | None:
    """Why the engine cannot be used here; None if it can."""
    try:
        library()
    except LibraryMissing as error:
        return str(error)
    return None


def kernels() -> tuple[str, ...]:
    """Names of the kernels that run on this CPU, fastest first."""
    return tuple(library().wkv_kernels().decode().split())
