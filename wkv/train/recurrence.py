"""The differentiable RWKV-7 recurrence for CPU training, from the native library.

`recurrence()` returns a function with the signature of `wkv.ops.wkv7.wkv7`. The native recurrence
is a PyTorch operator with its own gradient, so `torch.compile` does not trace into it.
Without the library, the PyTorch recurrence of `wkv.ops` computes the same values more slowly.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wkv.models.parts import Recurrence
from wkv.native.library import kernels, library, missing_reason
from wkv.ops.wkv7 import wkv7

HEAD_SIZES = (16, 32, 64, 128)
"""Head sizes that `native/source/training.inl` is compiled for."""


def recurrence(threads: int) -> tuple[Recurrence, str | None]:
    """Return a wkv7 function, and a notice if it is not the native recurrence."""
    reason = missing_reason()
    if reason is not None:
        return wkv7, (
            f"the native library is missing ({reason}): training uses the slower PyTorch recurrence"
        )
    return functools.partial(_native_wkv7, threads), None


def _native_wkv7(
    threads: int,
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv.ops.wkv7.wkv7` with the native library."""
    inputs = [x.float().contiguous() for x in (receptance, log_decay, key, value, a, b, state)]
    y, last, _, _ = _forward(threads, *inputs)
    return y.to(receptance.dtype), last


def _call(name: str, threads: int, shape: Sequence[int], tensors: Sequence[Tensor]) -> None:
    """Call a training function of the library for tensors with this shape (B, T, H, N)."""
    if shape[-1] not in HEAD_SIZES:
        raise ValueError(
            f"the native recurrence supports head sizes {HEAD_SIZES}, found {shape[-1]}"
        )
    function = getattr(library(), name)
    pointers = [x.data_ptr() for x in tensors]
    if function(kernels()[0].encode(), threads, *shape, *pointers) != 0:
        raise MemoryError("there is not enough memory for the training recurrence")


def _empty_results(r: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate y, the last state, S a, and the states at the start of each chunk of tokens.

    Shapes: (B, T, H, N), (B, H, N, N), (B, T, H, N), (B, H, chunks, N, N).
    """
    B, T, H, N = r.shape
    chunks = -(-T // library().wkv_training_chunk())
    checkpoints = r.new_empty(B, H, chunks, N, N)
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
    y, last, sa, checkpoints = _empty_results(r, state)
    tensors = (r, log_decay, k, v, a, b, state, y, sa, checkpoints, last)
    _call("wkv_training_forward", threads, r.shape, tensors)
    return y, last, sa, checkpoints


@_forward.register_fake
def _(  # type: ignore[no-untyped-def]
    threads, r, log_decay, k, v, a, b, state
):
    return _empty_results(r, state)


SevenTensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _empty_gradients(r: Tensor, dlast: Tensor) -> SevenTensors:
    """Allocate the gradients of r, log_decay, k, v, a, b and the first state."""
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
    gradients = _empty_gradients(r, dlast)
    inputs = (r, log_decay, k, v, a, b, sa, checkpoints, dy, dlast)
    _call("wkv_training_backward", threads, r.shape, (*inputs, *gradients))
    return gradients


@_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    threads, r, log_decay, k, v, a, b, sa, checkpoints, dy, dlast
):
    return _empty_gradients(r, dlast)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
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


_forward.register_autograd(_differentiate, setup_context=_save_for_backward)
