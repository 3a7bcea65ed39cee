"""Runs a step of the GPU engine on lists of ids, with slots that begin as NaN."""

import numpy as np
import torch

from tests.checkpoints import random_checkpoint, save_pth
from wkv.checkpoint.weights import Weights
from wkv.gpu.rows import EMPTY_SLOT, PackedRows, Slots
from wkv.inference.describe import describe
from wkv.inference.torch_weights import load_torch_network
from wkv.models.strategy import choose_strategy

SIZES = {"n_layer": 2, "n_embd": 96, "head_size": 32, "vocab_size": 90}
"""No power of two, and ranks and a vocabulary that are no multiples of 16."""


def random_network(folder, strategy, generation="7", **sizes):
    """Return the modules and the tensors of a random checkpoint, on the CPU for any strategy."""
    tensors = random_checkpoint(generation, **(SIZES | sizes))
    save_pth(tensors, folder / "random.pth")
    found = describe(folder / "random.pth")
    sizes = found.config.n_layer, found.dtypes, found.n_params
    chosen = choose_strategy(strategy, *sizes, check=False)
    weights = Weights(found.checkpoint, found.shapes, chosen.on_cpu())
    return load_torch_network(found.config, weights), tensors


def rounded(tensors, dtype):
    """Return the tensors as the oracle reads them, with the matrices rounded to a dtype."""
    elementwise = ("r_k", "time_decay", "time_faaaa")
    return {
        name: (
            tensor.to(dtype).float()
            if tensor.squeeze().dim() > 1 and not name.endswith(elementwise)
            else tensor
        ).numpy()
        for name, tensor in tensors.items()
    }


def rms(found, expected):
    """Return the root mean square of the difference."""
    return float(np.sqrt(np.mean((np.asarray(found, dtype=np.float64) - expected) ** 2)))


def new_slots(config, count, device="cpu"):
    """Return slots whose values are NaN, except for the empty one."""
    shift = torch.full((count, config.n_layer, config.n_embd), torch.nan, device=device)
    wkv = torch.full(
        (count, config.n_layer, config.n_head, config.head_size, config.head_size),
        torch.nan,
        device=device,
    )
    slots = Slots(shift, wkv, shift.clone())
    for part in (slots.att_shift, slots.wkv, slots.ffn_shift):
        part[EMPTY_SLOT] = 0
    return slots


def pack(prompts, slots, read, write):
    """Return the ids and the packed rows of several lists of ids."""
    counts = tuple(map(len, prompts))
    begins = [sum(counts[:index]) for index in range(len(counts) + 1)]
    sequence = [index for index, count in enumerate(counts) for _ in range(count)]
    numbers = (
        torch.tensor(values, dtype=torch.int32, device=slots.device)
        for values in (sequence, begins, read, write)
    )
    ids = torch.tensor([token for prompt in prompts for token in prompt], device=slots.device)
    return ids, PackedRows(*numbers, counts=counts, slots=slots)
