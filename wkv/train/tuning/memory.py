"""Estimate the memory of a fine-tuning step, and choose how many rows are computed at a time."""

from dataclasses import dataclass
from pathlib import Path

import torch

from wkv.models.parts import Config

PER_WIDTH, PER_HIDDEN = 60, 4
"""Numbers that a block keeps for the backward pass, per channel of D and of F, and per token.

An upper estimate: 74 to 76 numbers per channel of D, where F is 3.5 to 4 times D. The tensors that
autograd keeps were counted at width 192 in float32: 26 (a state), 39 (LoRA) and 46 (full) in
generation 7 with the native recurrence, and 41 to 71 with LoRA in generations 4, 5.2, 6, 7 and 7a
without it."""

SHARE = 0.4
"""The share of free memory that activations may use."""

UNKNOWN_MEMORY = 4 * 2**30
"""Free memory that is assumed if the system does not tell."""


@dataclass(frozen=True)
class MemoryPlan:
    """The number of rows that are computed at a time.

    Attributes:
        micro_rows: number of rows that are computed at a time.
        checkpoint_blocks: whether blocks are computed again in the backward pass.
        activation_bytes: expected memory of the activations.
    """

    micro_rows: int
    checkpoint_blocks: bool
    activation_bytes: int


def plan_memory(
    config: Config, rows: int, tokens: int, device: torch.device, checkpoint: bool | None
) -> MemoryPlan:
    """Choose the number of rows for the free memory.

    Args:
        config: sizes of the model.
        rows: rows of a step in this process.
        tokens: tokens of the longest row whose gradient is computed in one piece.
        device: where the model is.
        checkpoint: whether blocks are computed again; None: if one row would not fit otherwise.
    """
    block = 4 * (PER_WIDTH * config.n_embd + PER_HIDDEN * config.dim_ffn)
    whole = block * config.n_layer
    budget = SHARE * (free_bytes(device) or UNKNOWN_MEMORY)
    again = tokens * whole > budget if checkpoint is None else checkpoint
    per_token = block + 4 * config.n_embd * config.n_layer if again else whole
    micro_rows = max(1, min(rows, int(budget // (tokens * per_token))))
    return MemoryPlan(micro_rows, again, micro_rows * tokens * per_token)


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes, or None if it is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None
