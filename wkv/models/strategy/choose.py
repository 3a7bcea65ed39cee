"""Select the strategy for a model on this machine, from a strategy string or automatically."""

import os
from collections.abc import Callable, Collection, Sequence

import torch

from wkv.errors import StrategyError
from wkv.models.strategy.language import ADVICE, Segment, read_strategy
from wkv.models.strategy.placement import Strategy, place
from wkv.models.strategy.products import SMALL

MAX_GPU_SHARE, MAX_MEMORY_SHARE = 0.9, 0.8
"""Largest shares of a GPU's free memory and of this machine's memory that weights may use."""


def choose_strategy(
    text: str,
    n_layer: int,
    file_dtypes: Collection[torch.dtype],
    n_params: int,
    *,
    check: bool = True,
    native: bool = False,
    gpu_bytes: Callable[[Strategy], int] | None = None,
) -> Strategy:
    """Parse a strategy string, or select a strategy for `auto`, and place the layers of a model.

    Args:
        text: "auto", or a string in the language of `wkv.models.strategy.language`.
        n_layer: number of the model's blocks.
        file_dtypes: dtypes of the checkpoint's matrices.
        n_params: number of parameters, from which the required memory is computed.
        check: whether to check that the devices are available.
        native: whether the native engine can run the model. Its speed is limited only by the
            number of bytes it reads, so it prefers 16-bit weights.
        gpu_bytes: returns the memory that a strategy needs on the GPU. None counts all weights.

    Raises:
        StrategyError: if the string is wrong or names a device that is not available.
    """
    if not isinstance(text, str):
        raise StrategyError(f"a strategy is a string, not {type(text).__name__}: {ADVICE}")
    if text.strip() == "auto":
        if torch.cuda.is_available():
            dtype = _gpu_dtype(file_dtypes)
            reason = "a CUDA device, in the file's dtype"
            strategy = place([Segment("cuda", dtype)], n_layer, reason)
            needed = gpu_bytes(strategy) if gpu_bytes else dtype.itemsize * n_params
            if needed < MAX_GPU_SHARE * torch.cuda.mem_get_info()[0]:
                return strategy
        segment, reason = _automatic(file_dtypes, n_params, native)
        return place([segment], n_layer, reason)
    segments = read_strategy(text)
    if any(segment.device == "dml" for segment in segments):  # PyTorch does not know this name
        raise StrategyError(
            "dml (DirectML) is not available: torch-directml does not exist for this PyTorch; "
            "use cpu, or cuda if there is a CUDA device"
        )
    if any(segment.packed for segment in segments) and {s.device for s in segments} != {"cpu"}:
        raise StrategyError(
            f"strategy {text!r}: int8 and int4 (weights packed in groups) need all layers on the "
            "cpu; together with a GPU use bf16 or bf16i8 for the layers on the cpu"
        )
    if check:
        check_devices(segments)
    return place(segments, n_layer)


def check_devices(segments: Sequence[Segment]) -> None:
    """Check that this machine has every device of a strategy.

    Raises:
        StrategyError: if a device is not available.
    """
    for segment in segments:
        kind, _, number = segment.device.partition(":")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            raise StrategyError(
                f"{segment.device} is not available: PyTorch sees {torch.cuda.device_count()} "
                "CUDA devices here; use cpu, or install a PyTorch with CUDA"
            )
        if kind == "mps" and not torch.backends.mps.is_available():
            raise StrategyError("mps is not available: PyTorch sees no such device here; use cpu")


def _gpu_dtype(file_dtypes: Collection[torch.dtype]) -> torch.dtype:
    """Return the dtype on a GPU that is not less precise than the file."""
    for dtype in (torch.bfloat16, torch.float16):
        if set(file_dtypes) <= {dtype}:
            return dtype
    return torch.float32


def _automatic(
    file_dtypes: Collection[torch.dtype], n_params: int, native: bool
) -> tuple[Segment, str]:
    """Return the fastest CPU segment that is not less precise than the file and fits into memory.

    It is never quantized. The second value is the reason for the choice.
    """
    bf16 = set(file_dtypes) <= {torch.bfloat16}
    why = "the GPU is too small" if torch.cuda.is_available() else "no GPU"
    full, half = Segment("cpu", torch.float32), Segment("cpu", torch.bfloat16)
    if 4 * n_params < SMALL:
        return full, f"{why}; the model is so small that fp32 costs nothing"
    fits = 4 * n_params < MAX_MEMORY_SHARE * memory_bytes()
    if native and bf16:
        return half, f"{why}; the file is bf16"
    if native and set(file_dtypes) <= {torch.float16}:
        return Segment("cpu", torch.float16), f"{why}; the file is fp16"
    if not bf16:
        if fits or set(file_dtypes) == {torch.float32}:  # fp32 files stay memory-mapped
            return full, f"{why}; the file is more precise than bf16"
        raise StrategyError(
            f"in fp32 the model needs {4 * n_params / 2**30:.0f} GiB, more than this machine has, "
            "and auto never uses less precision than the file; give a strategy: 'cpu bf16' (half "
            "of that memory) or 'cpu bf16i8' (a quarter)"
        )
    if not fits:
        return half, f"{why}; fp32 would not fit into memory"
    if _fast_bf16():
        return half, f"{why}; the file is bf16, which this CPU multiplies in hardware"
    return full, f"{why}; this CPU does not multiply bf16 in hardware"


def memory_bytes() -> int:
    """Return this machine's memory in bytes, or 2^62 if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def _fast_bf16() -> bool:
    """Check whether this CPU multiplies bf16 matrices in hardware."""
    # These functions of PyTorch are private. If a version lacks one, `bool` returns False instead.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)
