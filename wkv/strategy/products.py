"""How a strategy multiplies: which of PyTorch's products is fastest for a placement."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from wkv.ops.torch_settings import at_most
from wkv.strategy.placement import Placement, Strategy

SMALL = 64 * 2**20
"""Bytes of weights below which reading them costs nothing: they fit in a processor's cache."""


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
    if rows > 1 or not any(map(_is_bf16_on_cpu, strategy.layers)):
        return nullcontext()
    return _ONE_ROW_PRODUCTS


def _is_bf16_on_cpu(placement: Placement) -> bool:
    return placement.device.type == "cpu" and placement.dtype == torch.bfloat16


@contextmanager
def threads_for(n_bytes: int, strategy: Strategy, threads: int) -> Iterator[None]:
    """A context in which a model on a CPU runs on so many threads, a small one on one.

    Its products are done before a second thread wakes up; on a busy machine, where threads wait
    for each other's turn on a core, a second one makes it thirty times slower.
    """
    threads = 1 if n_bytes < SMALL else threads
    on_cpu = any(layer.device.type == "cpu" for layer in strategy.layers)
    if not on_cpu:
        yield
        return
    with at_most(threads):
        yield


def linear_for(placement: Placement) -> Callable[[Tensor, Tensor], Tensor]:
    """The product x weight^T of a placement.

    For float32 on a CPU that is oneDNN's where PyTorch has it: it reads the matrix about 1.5 times
    as fast for a single row as the library that `F.linear` calls. For bf16 it is the product of a
    matrix and a vector where there is one row, see also `products_for`.
    """
    product = _linear_of_device(placement)
    return _streamed(product) if placement.streamed else product


def _linear_of_device(placement: Placement) -> Callable[[Tensor, Tensor], Tensor]:
    if placement.device.type != "cpu" or placement.dtype == torch.float16:
        return F.linear
    if placement.dtype == torch.bfloat16:
        return _vector_linear
    return _one_dnn_linear if torch._C._has_mkldnn else F.linear


def _streamed(product: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A product that fetches its weight from main memory first."""
    return lambda x, weight: product(x, weight.to(x.device, non_blocking=True))


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


def factor_for(factor: Tensor, placement: Placement) -> Tensor:
    """A low-rank factor (in, out), laid out in memory as the product with one row reads it fastest.

    PyTorch's loop for bf16 on a CPU wants the axis of inputs to run fastest. Elsewhere this is
    the factor itself.
    """
    if not _is_bf16_on_cpu(placement) or factor.dim() != 2:
        return factor
    return factor.t().contiguous().t()
