"""The differentiable RWKV-7 recurrence for CPU training, compiled from `recurrence.cpp` on demand.

`recurrence()` hands out a function with the signature of `wkv.ops.wkv7.wkv7`. The C++ form is
registered as a torch operator with its own gradient, so `torch.compile` passes it by unchanged.
Where it cannot be compiled or loaded, the torch form of `wkv.ops` is used: same numbers, slower.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wkv.models.rwkv7 import Recurrence
from wkv.ops.wkv7 import wkv7

SOURCE = Path(__file__).with_name("recurrence.cpp")
COMPILERS = ("g++", "clang++", "c++")
# No -ffast-math: a library linked with it would switch denormal numbers off for the whole process.
ARITHMETIC = ("-ffp-contract=fast", "-fno-math-errno")
FLAGS = ("-O3", "-march=native", *ARITHMETIC, "-std=c++17", "-shared", "-fPIC")
# Tried in turn: wide vectors are a GCC and clang x86 option, OpenMP is missing in some clangs.
EXTRA_FLAGS = (("-fopenmp", "-mprefer-vector-width=512"), ("-fopenmp",), ("-fopenmp-simd",), ())
HEAD_SIZES = (16, 32, 64, 128)
CHUNK = 16  # tokens between two saved states; must equal CHUNK of recurrence.cpp


def cache_folder() -> Path:
    """The user's cache folder for things built on this machine."""
    try:
        return Path.home() / ".cache" / "wkv"
    except RuntimeError as error:
        raise CompilerMissing(f"the compiled recurrence cannot be kept ({error})") from error


def recurrence(threads: int) -> tuple[Recurrence, str | None]:
    """Return `(wkv7 function, notice)`: the C++ form, or the torch form and a notice saying why."""
    try:
        _library()
    except (CompilerMissing, OSError) as reason:
        # OSError: the cache cannot be written, or lies where nothing may be executed.
        return wkv7, f"{reason}: training uses the slower torch form of the recurrence"
    return functools.partial(_wkv7_with_threads, threads), None


class CompilerMissing(Exception):
    """The recurrence cannot be compiled here."""


@functools.cache
def _library() -> ctypes.CDLL:
    path = build(cache_folder())
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "chunk_length"):
        raise CompilerMissing(f"{path} is not the compiled recurrence; remove it")
    if library.chunk_length() != CHUNK:
        raise CompilerMissing("recurrence.cpp and recurrence.py disagree about the chunk length")
    return library


def build(cache: Path) -> Path:
    """Compile `recurrence.cpp` into `cache` unless that is done already; return the library's path.

    The file name holds a hash of the source, the flags and the processor: `-march=native` code
    must not be picked up by another machine that shares the folder.

    Raises:
        CompilerMissing: if there is no compiler that can compile it.
        OSError: if the cache cannot be written.
    """
    key = repr((SOURCE.read_text(), FLAGS, EXTRA_FLAGS, platform.machine(), _processor()))
    target = cache / f"recurrence-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if target.exists():
        return target
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CompilerMissing(f"no C++ compiler was found ({', '.join(COMPILERS)})")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        built = Path(folder) / target.name
        for extra in EXTRA_FLAGS:
            command = [compiler, *FLAGS, *extra, str(SOURCE), "-o", str(built)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0:
                os.replace(built, target)
                return target
    reason = (result.stderr.strip().splitlines() or ["no message"])[0]
    raise CompilerMissing(f"{compiler} cannot compile the recurrence ({reason})")


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(
        sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    )


def _wkv7_with_threads(
    threads: int,
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Signature of `wkv.ops.wkv7.wkv7`, behind the number of threads."""
    inputs = [x.float().contiguous() for x in (receptance, log_decay, key, value, a, b, state)]
    y, last, _, _ = _forward(threads, *inputs)
    return y.to(receptance.dtype), last


def _pointers(tensors: Iterable[Tensor]) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(x.data_ptr()) for x in tensors]


def _sizes(x: Tensor) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(size) for size in x.shape]


def _empty_results(r: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for y, the last state, S a and the states every CHUNK tokens.

    (B, T, H, N), (B, H, N, N), (B, T, H, N), (B, H, chunks, N, N).
    """
    B, T, H, N = r.shape
    checkpoints = r.new_empty(B, H, -(-T // CHUNK), N, N)
    return torch.empty_like(r), torch.empty_like(state), torch.empty_like(r), checkpoints


@torch.library.custom_op("wkv::wkv7_cpu", mutates_args=())
def _forward(
    threads: int,
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs = (r, log_decay, k, v, a, b, state)
    y, last, sa, checkpoints = _empty_results(r, state)
    outputs = (y, sa, checkpoints, last)
    failed = _library().wkv7_forward(
        *_sizes(r), ctypes.c_int(threads), *_pointers(inputs), *_pointers(outputs)
    )
    if failed:
        raise ValueError(f"the C++ recurrence knows head sizes {HEAD_SIZES}, not {r.shape[-1]}")
    return y, last, sa, checkpoints


@_forward.register_fake
def _(  # type: ignore[no-untyped-def]
    threads, r, log_decay, k, v, a, b, state
):
    return _empty_results(r, state)


SevenTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _empty_gradients(r: Tensor, dlast: Tensor) -> SevenTensors:
    """Room for the gradients of r, log_decay, k, v, a, b and the first state."""
    dr, dlog_decay, dk, dv, da, db = (torch.empty_like(r) for _ in range(6))
    return dr, dlog_decay, dk, dv, da, db, torch.empty_like(dlast)


@torch.library.custom_op("wkv::wkv7_cpu_backward", mutates_args=())
def _backward(
    threads: int,
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    sa: Tensor,
    checkpoints: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = (r, log_decay, k, v, a, b, sa, checkpoints, dy, dlast)
    gradients = _empty_gradients(r, dlast)
    _library().wkv7_backward(
        *_sizes(r), ctypes.c_int(threads), *_pointers(inputs), *_pointers(gradients)
    )
    return gradients


@_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    threads, r, log_decay, k, v, a, b, sa, checkpoints, dy, dlast
):
    return _empty_gradients(r, dlast)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    threads, r, log_decay, k, v, a, b, _ = inputs
    _, last, sa, checkpoints = output
    ctx.threads = threads
    ctx.state_shape = last.shape
    ctx.save_for_backward(r, log_decay, k, v, a, b, sa, checkpoints)


def _differentiate(
    ctx: Any, dy: Tensor | None, dlast: Tensor | None, _sa: object, _checkpoints: object
) -> tuple[Tensor | None, ...]:
    dy = torch.zeros_like(ctx.saved_tensors[0]) if dy is None else dy.contiguous()
    dlast = dy.new_zeros(ctx.state_shape) if dlast is None else dlast.contiguous()
    return (None, *_backward(ctx.threads, *ctx.saved_tensors, dy, dlast))


_forward.register_autograd(_differentiate, setup_context=_remember)
