"""Select PyTorch's fastest matrix products and number of threads for a placement."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from wkv.models.strategy.placement import Placement, Strategy
from wkv.ops.torch_settings import thread_limit, without_onednn

SMALL = 64 * 2**20
"""Weights of fewer bytes fit into the cache of a CPU, so that reading them takes almost no time."""


def products_for(rows: int, strategy: Strategy) -> AbstractContextManager[None]:
    """Return a context in which PyTorch uses the fastest matrix products for a number of rows.

    For bf16 on a CPU, PyTorch uses oneDNN. With a single row, oneDNN reads a matrix two to ten
    times slower than PyTorch's own loop.
    """
    if rows > 1 or not any(map(_is_bf16_on_cpu, strategy.layers)):
        return nullcontext()
    return without_onednn


def _is_bf16_on_cpu(placement: Placement) -> bool:
    return placement.device.type == "cpu" and placement.dtype == torch.bfloat16


@contextmanager
def threads_for(n_bytes: int, strategy: Strategy, threads: int) -> Iterator[None]:
    """Limit PyTorch's threads for a model on a CPU; a model smaller than SMALL gets one thread.

    The products of a small model finish before a second thread wakes up. On a busy machine, where
    the threads compete for cores, a second thread makes a small model thirty times slower.

    Args:
        n_bytes: size of the weights.
        strategy: the strategy; without layers on a CPU nothing is changed.
        threads: the limit for models that are not small.
    """
    threads = 1 if n_bytes < SMALL else threads
    on_cpu = any(layer.device.type == "cpu" for layer in strategy.layers)
    if not on_cpu:
        yield
        return
    with thread_limit(threads):
        yield


Product = Callable[..., Tensor]
"""A function of x (..., n_in), a weight of its dtype, and the dtype of the result."""


def linear_for(placement: Placement, copies: "WeightCopies | None" = None) -> Product:
    """Return the function that computes x weight^T for a placement.

    For float32 on a CPU this is oneDNN's product if PyTorch includes oneDNN: for a single row it
    reads the matrix about 1.5 times as fast as the library that `F.linear` calls. For bf16 on a
    CPU and a single row it is a matrix-vector product; see also `products_for`. On a GPU, a product
    of 16-bit numbers can return its float32 sums.

    Args:
        placement: the placement of the weight.
        copies: the copies of a network's streamed weights; they share two buffers.
    """
    product = _linear_of_device(placement)
    return (copies or WeightCopies()).wrap(product) if placement.streamed else product


def _linear_of_device(placement: Placement) -> Product:
    if placement.device.type != "cpu" or placement.dtype == torch.float16:
        return linear
    if placement.dtype == torch.bfloat16:
        return _vector_linear
    return _one_dnn_linear if torch._C._has_mkldnn else linear


def linear(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Compute x weight^T; without a dtype the result has that of the weight."""
    if dtype == torch.float32 and has_float32_sums(weight):
        return torch.mm(x.reshape(-1, x.shape[-1]), weight.t(), out_dtype=dtype).view(
            *x.shape[:-1], -1
        )
    y = F.linear(x, weight)
    return y if dtype is None else y.to(dtype)


def matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x weight in the dtype of the weight; the result is float32 at least.

    Args:
        x: (..., rows, n_in), of any floating-point dtype.
        weight: (n_in, n_out), or a batch (n, n_in, n_out) for x (n, rows, n_in).
    """
    x, dtype = x.to(weight.dtype), at_least_float32(weight.dtype)
    if dtype != weight.dtype and has_float32_sums(weight):
        if weight.dim() == 3:
            return torch.bmm(x, weight, out_dtype=dtype)
        return torch.mm(x.reshape(-1, x.shape[-1]), weight, out_dtype=dtype).view(*x.shape[:-1], -1)
    return (x @ weight).to(dtype)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, and otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def has_float32_sums(weight: Tensor) -> bool:
    """Check whether the product with a 16-bit weight can return float32, without gradients.

    Then no rounding or overflow to infinity happens between the sums and the result.
    """
    if weight.device.type == "cpu" or weight.dtype not in (torch.float16, torch.bfloat16):
        return False
    return not torch.is_grad_enabled() and _can_return_float32(weight.device, weight.dtype)


@cache
def _can_return_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Try a product of 16-bit numbers with a float32 result: PyTorch 2.8 and CUDA have it."""
    one = torch.ones(8, 8, dtype=dtype, device=device)
    try:
        return torch.mm(one, one, out_dtype=torch.float32).dtype == torch.float32
    except (TypeError, RuntimeError):  # an older PyTorch, or a device without this product
        return False


class WeightCopies:
    """Copies streamed weights to a GPU, each while the product with the previous one runs.

    There are two buffers on the GPU, and a stream for copies. The order in which weights are used
    is learned in the first pass. On other devices nothing is copied ahead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # another thread must not overwrite a buffer before its use
        self._stream: Any = None  # a torch.cuda.Stream
        self._buffers: list[Tensor] = []
        self._following: dict[int, Tensor] = {}
        self._last: Tensor | None = None
        self._ahead: tuple[Tensor, Tensor] | None = None

    def wrap(self, product: Product) -> Product:
        """Return a product whose weight is in main memory."""

        def streamed(x: Tensor, weight: Tensor, *dtype: torch.dtype) -> Tensor:
            if x.device.type != "cuda" or torch.is_grad_enabled():  # gradients need the weight
                return product(x, weight.to(x.device, non_blocking=True), *dtype)
            with self._lock:
                return product(x, self.take(weight, x.device), *dtype)

        return streamed

    def take(self, weight: Tensor, device: torch.device) -> Tensor:
        """Return a copy of a weight on a GPU, and begin to copy the weight that follows it.

        The copy is valid for one product, which must be started before the next call.
        """
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        if self._ahead is None or self._ahead[0] is not weight:
            self._copy(weight, device)
        assert self._ahead is not None
        taken = self._ahead[1]
        torch.cuda.current_stream(device).wait_stream(self._stream)
        if self._last is not None:
            self._following[id(self._last)] = weight
        self._last = weight
        following = self._following.get(id(weight))
        if following is not None:
            self._copy(following, device)
        return taken

    def _copy(self, weight: Tensor, device: torch.device) -> None:
        """Begin to copy a weight into the buffer that was not used last."""
        if len(self._buffers) < 2:
            self._buffers.append(torch.empty(0, dtype=torch.uint8, device=device))
        else:
            self._buffers.reverse()
        # The products that read this buffer were started before; the copy must not overtake them.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        if self._buffers[-1].numel() < weight.nbytes:
            self._buffers[-1] = torch.empty(weight.nbytes, dtype=torch.uint8, device=device)
        with torch.cuda.stream(self._stream):
            copy = self._buffers[-1][: weight.nbytes].view(weight.dtype).view(weight.shape)
            copy.copy_(weight, non_blocking=True)
        self._ahead = weight, copy


def _vector_linear(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Compute `linear`, by a matrix-vector product if x is a single row."""
    if x.numel() > x.shape[-1]:
        return linear(x, weight, dtype)
    y = torch.mv(weight, x.flatten()).view(*x.shape[:-1], -1)
    return y if dtype is None else y.to(dtype)


def _one_dnn_linear(x: Tensor, weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Compute `linear` by oneDNN, whose product supports only float32 without gradients."""
    if torch.is_grad_enabled() or x.dtype != torch.float32:
        return linear(x, weight, dtype)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return product


def factor_for(factor: Tensor, placement: Placement) -> Tensor:
    """Return a low-rank factor (in, out) with the memory layout that is fastest for one row.

    For bf16 on a CPU, PyTorch's loop is fastest if the axis of inputs is contiguous. For all other
    placements the factor is returned unchanged.
    """
    if not _is_bf16_on_cpu(placement) or factor.dim() != 2:
        return factor
    return factor.t().contiguous().t()
