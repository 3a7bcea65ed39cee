"""The reasons why the GPU engine cannot run a model."""

import torch

from wkv.models.strategy import Strategy

RESERVED_BYTES = 2**30
"""Memory of a GPU that slots leave free for activations, graphs and other programs."""


def unsupported_reason(strategy: Strategy) -> str | None:
    """Return why the engine cannot run a strategy, or None if it can."""
    devices = {layer.device for layer in strategy.layers}
    if len(devices) > 1 or strategy.device.type != "cuda":
        return "it supports strategies with all layers on one CUDA device only"
    if any(layer.streamed for layer in strategy.layers):
        return "it does not support streamed layers"
    return None


def lack_of_memory(strategy: Strategy, n_bytes: int) -> str | None:
    """Return why a model of `n_bytes`, with its embedding, does not fit, or None if it does."""
    free = free_bytes(strategy.device)
    if n_bytes <= free:
        return None
    return (
        f"with its embedding on the GPU, the model needs {n_bytes / 2**30:.1f} GiB, and "
        f"{free / 2**30:.1f} GiB are free there"
    )


def free_bytes(device: torch.device) -> int:
    """Return the bytes that slots may take on a device, without RESERVED_BYTES."""
    if device.type != "cuda":
        return RESERVED_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, free + unused - RESERVED_BYTES)
