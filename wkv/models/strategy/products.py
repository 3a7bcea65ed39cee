"""Select PyTorch's fastest matrix products and number of threads for a placement."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

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


def linear_for(placement: Placement) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function that computes x weight^T for a placement.

    For float32 on a CPU this is oneDNN's product if PyTorch includes oneDNN: for a single row it
    reads the matrix about 1.5 times as fast as the library that `F.linear` calls. For bf16 on a
    CPU and a single row it is a matrix-vector product; see also `products_for`.
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
    """Wrap a product so that it first copies the weight from main memory to the device of x."""
    return lambda x, weight: product(x, weight.to(x.device, non_blocking=True))


def _vector_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute `F.linear`, by a matrix-vector product if x is a single row."""
    if x.numel() > x.shape[-1]:
        return F.linear(x, weight)
    return torch.mv(weight, x.flatten()).view(*x.shape[:-1], -1)


def _one_dnn_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute `F.linear` by oneDNN, whose product supports only float32 without gradients."""
    if torch.is_grad_enabled() or x.dtype != torch.float32:
        return F.linear(x, weight)
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
