"""Choose what runs a network's packed rows: Triton kernels if they can, otherwise its modules."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from wkv.gpu.module_step import ModuleStep
from wkv.gpu.requirements import kernel_error
from wkv.gpu.rows import Step
from wkv.models.int8 import Int8Linear
from wkv.models.parts import Config, Skeleton

HEAD_SIZES = (16, 32, 64, 128)
"""Sizes of heads that the kernels support: powers of two that fit into registers."""

ALIGNMENT = 16
"""The numbers of inputs of all matrices are multiples of it."""

CAPABILITIES = {torch.bfloat16: (8, 0), torch.float16: (7, 0)}
"""Compute capabilities from which NVIDIA's GPUs multiply matrices of a dtype."""


def choose_step(network: Skeleton, device: torch.device, report: Callable[[str], None]) -> Step:
    """Return the step that runs a network on a device.

    For generations without a step of their own, the modules run with the recurrence as a kernel.

    Args:
        network: the modules, on the device.
        device: the device.
        report: is called with one sentence if no kernel can run on this machine.
    """
    if device.type != "cuda" or heads_unsupported_reason(network.config) is not None:
        return ModuleStep(network)
    error = kernel_error(device)
    if error is not None:
        report(f"the GPU runs PyTorch's modules, which is slower: {error}")
        return ModuleStep(network)
    head: Any = network.head
    dtype = head.placement.dtype if isinstance(head, Int8Linear) else head.weight.dtype
    if step_unsupported_reason(network.config) or dtype_unsupported_reason(dtype, device):
        import_module("wkv.gpu.recurrences").use_kernels(network)
        return ModuleStep(network)
    step: Step = import_module("wkv.gpu.rwkv7_step").Rwkv7Step(network)
    return step


def heads_unsupported_reason(config: Config) -> str | None:
    """Return why no kernel can compute a model's recurrence, or None if one can."""
    if config.head_size in (None, *HEAD_SIZES):
        return None
    return f"heads of {config.head_size} channels are not supported"


def step_unsupported_reason(config: Config) -> str | None:
    """Return why a model has no step of kernels, or None if it has one."""
    if config.generation != "7":
        return f"the products of RWKV-{config.generation} have no kernels"
    for name in ("n_embd", "dim_att", "dim_ffn"):
        if getattr(config, name) % ALIGNMENT:
            return f"{name} is {getattr(config, name)}, which is no multiple of {ALIGNMENT}"
    return None


def dtype_unsupported_reason(dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why an NVIDIA GPU cannot multiply matrices of a dtype, or None if it can."""
    needed = CAPABILITIES.get(dtype)
    if needed is None or torch.version.hip is not None:
        return None
    found = torch.cuda.get_device_capability(device)
    if found >= needed:
        return None
    return f"{dtype} needs compute capability {needed}, this GPU has {found}"
