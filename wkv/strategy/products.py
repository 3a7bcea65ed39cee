"""Where a model runs and in which dtype: `auto`, or a device and a dtype such as `cpu bf16`.

The rest of ChatRWKV's strategy language (several devices, layers streamed, int8) is refused by
name until it is there.
"""

import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wkv.errors import StrategyError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

SMALL = 64 * 2**20
"""Bytes of weights below which reading them costs nothing: they fit in a processor's cache."""

GRAMMAR = "`auto`, or a device and a dtype, such as `cpu fp32`, `cpu bf16`, `cuda fp16`"


@dataclass(frozen=True)
class Strategy:
    """A device and a dtype for the matrices, and why they were picked.

    Attributes:
        device: such as "cpu" or "cuda:0".
        dtype: of the matrices; vectors and states are always float32.
        reason: one phrase; empty where the user named the strategy.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str = ""

    def __str__(self) -> str:
        """In the language of strategy strings."""
        names = {dtype: name for name, dtype in DTYPES.items()}
        return f"{self.device} {names[self.dtype]}"


def choose_strategy(text: str, file_dtypes: Collection[torch.dtype], n_params: int) -> Strategy:
    """Read a strategy string, or pick one for `auto`.

    Args:
        text: "auto", or "DEVICE DTYPE".
        file_dtypes: of the checkpoint's matrices.
        n_params: number of parameters, to see what fits into memory.

    Raises:
        StrategyError: if the string is wrong or names what is not available here.
    """
    if not isinstance(text, str):
        raise StrategyError(f"a strategy is a string, {type(text).__name__} was given: {GRAMMAR}")
    if text.strip() == "auto":
        return _automatic(file_dtypes, n_params)
    match = re.fullmatch(r"(cpu|cuda(?::\d+)?|mps) (\w+)", text.strip())
    if match is None:
        if "->" in text or "*" in text:
            raise StrategyError(
                f"{text!r} splits a model over devices or streams its layers, which wkv cannot do "
                f"yet; expected {GRAMMAR}"
            )
        raise StrategyError(f"{text!r} is no strategy; expected {GRAMMAR}")
    device, dtype = _device(match[1]), match[2]
    if dtype not in DTYPES:
        if re.fullmatch(r"int[48]|(fp32|fp16|bf16)i8", dtype):
            raise StrategyError(
                f"{text!r} asks for quantised weights, which wkv cannot do yet; use "
                f"{device} bf16 or {device} fp32"
            )
        raise StrategyError(f"{dtype!r} is no dtype; expected fp32, bf16 or fp16")
    if device.type == "cpu" and dtype == "fp16":
        raise StrategyError(
            "'cpu fp16' needs the native CPU engine, which is not there yet; use 'cpu bf16' "
            "(half the memory of fp32) or 'cpu fp32'"
        )
    _check_device(device)
    return Strategy(device, DTYPES[dtype])


def _device(name: str) -> torch.device:
    """The device of a name; PyTorch itself takes the number modulo 256."""
    number = name.partition(":")[2]
    if len(number) > 2:
        raise StrategyError(f"{name} was asked for, no machine has so many devices; use cuda:0")
    return torch.device(name)


def _check_device(device: torch.device) -> None:
    """Raise if the device is not there."""
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise StrategyError(
            f"{device} was asked for, and PyTorch sees {torch.cuda.device_count()} CUDA devices "
            "here; use cpu, or install a PyTorch with CUDA"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise StrategyError("mps was asked for, and PyTorch sees no such device here; use cpu")


def _automatic(file_dtypes: Collection[torch.dtype], n_params: int) -> Strategy:
    """The fastest dtype that is no coarser than the file and fits memory. Never quantised."""
    bf16 = set(file_dtypes) <= {torch.bfloat16}
    if torch.cuda.is_available():
        dtype = torch.bfloat16 if bf16 else torch.float32
        if set(file_dtypes) <= {torch.float16}:
            dtype = torch.float16
        free, _ = torch.cuda.mem_get_info()
        if dtype.itemsize * n_params < free:
            return Strategy(torch.device("cuda"), dtype, "a CUDA device, in the file's dtype")
    cpu = torch.device("cpu")
    if not bf16:
        return Strategy(cpu, torch.float32, "no GPU; the file is finer than bf16, or fp16")
    if 4 * n_params < SMALL:
        return Strategy(cpu, torch.float32, "no GPU; the model is so small that fp32 costs nothing")
    if 4 * n_params > _memory_bytes():
        return Strategy(cpu, torch.bfloat16, "no GPU; fp32 would not fit into memory")
    if _fast_bf16():
        return Strategy(cpu, torch.bfloat16, "no GPU; the file is bf16 and so are the CPU's units")
    return Strategy(cpu, torch.float32, "no GPU; this CPU has no units for bf16")


def _memory_bytes() -> int:
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


class _OneRowProducts:
    """Switches oneDNN off while any thread multiplies with a single row.

    The switch is PyTorch's and belongs to the whole process, so the threads are counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch._C._get_mkldnn_enabled()
                torch._C._set_mkldnn_enabled(False)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch._C._set_mkldnn_enabled(self._before)


_ONE_ROW_PRODUCTS = _OneRowProducts()


def products_for(rows: int, strategy: Strategy) -> AbstractContextManager[None]:
    """A context in which PyTorch picks the right matrix products for so many rows.

    oneDNN, PyTorch's choice for bf16 on a CPU, reads a matrix two to ten times slower than
    PyTorch's own loop when it meets a single row.
    """
    if rows > 1 or strategy.device.type != "cpu" or strategy.dtype != torch.bfloat16:
        return nullcontext()
    return _ONE_ROW_PRODUCTS


@contextmanager
def threads_for(n_bytes: int, strategy: Strategy) -> Iterator[None]:
    """A context in which a small model on a CPU runs on one thread.

    Its products are done before a second thread wakes up; on a busy machine, where threads wait
    for each other's turn on a core, a second one makes it thirty times slower.
    """
    if n_bytes >= SMALL or strategy.device.type != "cpu":
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def linear_for(strategy: Strategy) -> Callable[[Tensor, Tensor], Tensor]:
    """The product x weight^T of a strategy.

    For float32 on a CPU that is oneDNN's where PyTorch has it: it reads the matrix about 1.5 times
    as fast for a single row as the library that `F.linear` calls. For bf16 it is the product of a
    matrix and a vector where there is one row, see also `products_for`.
    """
    if strategy.device.type != "cpu":
        return F.linear
    if strategy.dtype == torch.bfloat16:
        return _vector_linear
    return _one_dnn_linear if torch._C._has_mkldnn else F.linear


def _vector_linear(x: Tensor, weight: Tensor) -> Tensor:
    """As `F.linear`, as a product with a vector if x is a single row."""
    if x.numel() > x.shape[-1]:
        return F.linear(x, weight)
    return torch.mv(weight, x.flatten()).view(*x.shape[:-1], -1)


def _one_dnn_linear(x: Tensor, weight: Tensor) -> Tensor:
    """As `F.linear`, by oneDNN; it knows no gradients and nothing but float32."""
    if torch.is_grad_enabled() or x.dtype != torch.float32:
        return F.linear(x, weight)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def factor_for(factor: Tensor, strategy: Strategy) -> Tensor:
    """A low-rank factor (in, out), laid out in memory as the product with one row reads it fastest.

    PyTorch's loop for bf16 on a CPU wants the axis of inputs to run fastest. Elsewhere this is
    the factor itself.
    """
    if strategy.device.type != "cpu" or strategy.dtype != torch.bfloat16 or factor.dim() != 2:
        return factor
    return factor.t().contiguous().t()
