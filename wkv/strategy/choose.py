"""From a strategy string, or `auto`, to a strategy for a model on this machine."""

import os
from collections.abc import Collection, Sequence

import torch

from wkv.errors import StrategyError
from wkv.strategy.language import ADVICE, Segment, read_strategy
from wkv.strategy.placement import Strategy, place
from wkv.strategy.products import SMALL

MOST_OF_A_GPU, MOST_OF_MEMORY = 0.9, 0.8
"""Shares of the free memory of a GPU and of this machine's that weights may take."""


def choose_strategy(
    text: str,
    n_layer: int,
    file_dtypes: Collection[torch.dtype],
    n_params: int,
    *,
    check: bool = True,
    native: bool = False,
) -> Strategy:
    """Read a strategy string, or pick one for `auto`, and place the layers of a model.

    Args:
        text: "auto", or a string in the language of `wkv.strategy.language`.
        n_layer: number of the model's blocks.
        file_dtypes: of the checkpoint's matrices.
        n_params: number of parameters, to see what fits into memory.
        check: whether the devices must be there.
        native: whether the native engine can run the model, which is as fast as bytes come.

    Raises:
        StrategyError: if the string is wrong or names a device that is not there.
    """
    if not isinstance(text, str):
        raise StrategyError(f"a strategy is a string, {type(text).__name__} was given: {ADVICE}")
    if text.strip() == "auto":
        segment, reason = _automatic(file_dtypes, n_params, native)
        return place([segment], n_layer, reason)
    segments = read_strategy(text)
    if any(segment.packed for segment in segments) and {s.device for s in segments} != {"cpu"}:
        raise StrategyError(
            f"strategy {text!r}: int8 and int4 (weights packed in groups) need all layers on the "
            "cpu; with a GPU use bf16 or bf16i8 for the cpu's layers"
        )
    if check:
        check_devices(segments)
    return place(segments, n_layer)


def check_devices(segments: Sequence[Segment]) -> None:
    """Raise unless this machine has every device that is named."""
    for segment in segments:
        kind, _, number = segment.device.partition(":")
        if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
            raise StrategyError(
                f"{segment.device} was asked for, and PyTorch sees {torch.cuda.device_count()} "
                "CUDA devices here; use cpu, or install a PyTorch with CUDA"
            )
        if kind == "mps" and not torch.backends.mps.is_available():
            raise StrategyError("mps was asked for, and PyTorch sees no such device here; use cpu")
        if kind == "dml":
            raise StrategyError(
                "dml (DirectML) was asked for, and torch-directml does not exist for this PyTorch; "
                "use cpu, or cuda where there is one"
            )


def _automatic(
    file_dtypes: Collection[torch.dtype], n_params: int, native: bool
) -> tuple[Segment, str]:
    """The fastest dtype that is no coarser than the file and fits memory. Never quantized."""
    bf16 = set(file_dtypes) <= {torch.bfloat16}
    if torch.cuda.is_available():
        dtype = torch.bfloat16 if bf16 else torch.float32
        if set(file_dtypes) <= {torch.float16}:
            dtype = torch.float16
        free, _ = torch.cuda.mem_get_info()
        if dtype.itemsize * n_params < MOST_OF_A_GPU * free:
            return Segment("cuda", dtype), "a CUDA device, in the file's dtype"
    why = "the GPU is too small" if torch.cuda.is_available() else "no GPU"
    full, half = Segment("cpu", torch.float32), Segment("cpu", torch.bfloat16)
    if 4 * n_params < SMALL:
        return full, f"{why}; the model is so small that fp32 costs nothing"
    fits = 4 * n_params < MOST_OF_MEMORY * memory_bytes()
    if native and bf16:
        return half, f"{why}; the file is bf16"
    if native and set(file_dtypes) <= {torch.float16}:
        return Segment("cpu", torch.float16), f"{why}; the file is fp16"
    if not bf16:
        if fits or set(file_dtypes) == {torch.float32}:  # which stays mapped to the file
            return full, f"{why}; the file is finer than bf16, or fp16"
        raise StrategyError(
            f"in fp32 the model takes {4 * n_params / 2**30:.0f} GiB, more than this machine has, "
            "and auto takes nothing coarser than the file; name a strategy: 'cpu bf16' (half of "
            "that) or 'cpu bf16i8' (a quarter)"
        )
    if not fits:
        return half, f"{why}; fp32 would not fit into memory"
    if _fast_bf16():
        return half, f"{why}; the file is bf16 and so are the CPU's units"
    return full, f"{why}; this CPU has no units for bf16"


def memory_bytes() -> int:
    """Bytes of memory of this machine; plenty where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**62


def _fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 matrices in hardware."""
    # PyTorch knows, but does not say so in public; where it does not know, the answer is no.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, bool)() for question in questions)
