"""The recurrences as Triton kernels, for the PyTorch modules of all generations.

A recurrence is one launch instead of 8 at decode, or up to 600 for a prompt. Importing this module
needs Triton.
"""

import torch
import triton
from torch import Tensor

from wkv.gpu.kernels import recurrences as kernels
from wkv.gpu.launch import OPTIONS
from wkv.models.parts import Skeleton

VALUES_OF_A_PROGRAM = 32
"""Rows of a state, which are independent of each other, that a program holds."""

CHANNELS_OF_A_PROGRAM = 256


def use_kernels(network: Skeleton) -> None:
    """Let the time mixes of a network compute their recurrences with kernels."""
    generation = network.config.generation
    recurrence = {"4": wkv4, "7": wkv7, "7a": wkv7}.get(generation, wkv6)
    for index in range(network.config.n_layer):
        time_mix = network.get_submodule(f"blocks.{index}.att")
        time_mix.wkv = recurrence  # type: ignore[assignment]
        if generation.startswith("5"):
            time_mix.wkv_of_padded = recurrence  # type: ignore[assignment]


def wkv7(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv.ops.wkv7.wkv7`, with the same arguments and results."""
    inputs = [x.contiguous() for x in (receptance, log_decay, key, value, a, b, state)]
    batch, tokens, heads, size = key.shape
    y, new = torch.empty_like(inputs[3]), torch.empty_like(inputs[-1])
    block = min(size, VALUES_OF_A_PROGRAM)
    kernels.delta_rule[(batch * heads, size // block)](
        *inputs, y, new, tokens, heads, N=size, BV=block, **OPTIONS
    )
    return y, new


def wkv6(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    bonus: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute `wkv.ops.wkv6.wkv6` or, for a constant decay, `wkv.ops.wkv5.wkv5`."""
    batch, tokens, heads, size = key.shape
    is_constant = log_decay.dim() == 2
    log_decay = log_decay.expand(heads, size) if is_constant else log_decay.expand_as(key)
    tensors = (receptance, log_decay, key, value, bonus.expand(heads, size), state)
    inputs = [x.contiguous() for x in tensors]
    y, new = torch.empty_like(inputs[3]), torch.empty_like(inputs[-1])
    block = min(size, VALUES_OF_A_PROGRAM)
    kernels.decaying_sum[(batch * heads, size // block)](
        *inputs, y, new, tokens, heads, PER_TOKEN=not is_constant, N=size, BV=block, **OPTIONS
    )
    return y, new


def wkv4(
    log_decay: Tensor, bonus: Tensor, key: Tensor, value: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `wkv.ops.wkv4.wkv4`, with the same arguments and results."""
    inputs = [x.contiguous() for x in (log_decay, bonus, key, value, state)]
    batch, tokens, width = key.shape
    y, new = torch.empty_like(inputs[3]), torch.empty_like(inputs[-1])
    blocks = triton.cdiv(width, CHANNELS_OF_A_PROGRAM)
    per_token = log_decay.dim() == 3
    kernels.decaying_mean[(batch, blocks)](
        *inputs, y, new, tokens, width, PER_TOKEN=per_token, BLOCK=CHANNELS_OF_A_PROGRAM, **OPTIONS
    )
    return y, new
