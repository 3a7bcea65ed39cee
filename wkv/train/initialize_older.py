"""Set the initial weights of RWKV-4, 5.2 and 6 as their official training scripts do.

    l = layer, L = layers, depth = l / (L - 1), rest = 1 - l / L, q[i] = i / D
    zigzag[i] = (i + 1) mod 3 - 1

Source: BlinkDL/RWKV-LM, RWKV-v4neo/src/model.py and RWKV-v5/src/model.py (constructors,
generate_init_weight).
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from wkv.errors import TrainingError
from wkv.models import parts, rwkv4, rwkv5, rwkv6
from wkv.train.settings import check_whole

HEAD_SIZE = 64

EMBEDDING_RANGE = 1e-4
"""Range of the embedding, as in RWKV-7; the scripts use the learning rate at the end."""

SMALL_RANGE = 0.01
"""Range of the outer factors of low-rank maps in RWKV-6."""

GAINS = {
    "4": {"att.output": 0.0, "att.key": 0.0, "att.receptance": 0.0, "ffn.value": 0.0,
          "ffn.receptance": 0.0},
    "5.2": {"att.output": 0.0, "att.key": 0.1, "att.gate": 0.1, "ffn.value": 0.0,
            "ffn.receptance": 0.0},
}  # fmt: skip
"""Gains of orthogonal matrices; others have that of their shape. RWKV-6 has those of 5.2."""

SPEEDS = {"time_decay": 2.0, "time_first": 3.0}
"""Factors of the learning rate by the last part of a name; others have 1."""


def older_config(generation: str, vocab_size: int, n_layer: int, n_embd: int) -> parts.Config:
    """Return the config of a new model of generation 4, 5.2 or 6.

    Raises:
        TrainingError: if a size is not allowed.
    """
    check_whole("layers", n_layer)
    check_whole("width", n_embd)
    if generation != "4" and n_embd % HEAD_SIZE:
        raise TrainingError(
            f"--width {n_embd} cannot be divided into heads of {HEAD_SIZE}; "
            f"give a multiple of {HEAD_SIZE}"
        )
    sizes = {
        "n_layer": n_layer,
        "n_embd": n_embd,
        "vocab_size": vocab_size,
        "dim_att": n_embd,
        "dim_ffn": 4 * n_embd if generation == "4" else int(3.5 * n_embd) // 32 * 32,
    }
    if generation == "4":
        return parts.Config(generation="4", **sizes)
    heads = {"n_head": n_embd // HEAD_SIZE, "head_size": HEAD_SIZE}
    if generation == "5.2":
        return rwkv5.Config(generation="5.2", **sizes, **heads, decay_size=HEAD_SIZE)
    is_wide = n_embd >= 4096
    ranks = {"mix_rank": 64 if is_wide else 32, "decay_rank": 128 if is_wide else 64}
    return rwkv6.Config(generation="6", **sizes, **heads, **ranks)


def older_network(config: parts.Config) -> parts.Skeleton:
    """Return the network of a config, without values."""
    if config.generation == "4":
        return rwkv4.RWKV4(replace(config))
    if isinstance(config, rwkv5.Config):
        return rwkv5.RWKV5(config)
    assert isinstance(config, rwkv6.Config)
    return rwkv6.RWKV6(config)


@torch.no_grad()
def initialize_older(model: parts.Skeleton, seed: int) -> None:
    """Set every tensor of a model of generation 4, 5.2 or 6; equal seeds give equal values."""
    source = torch.Generator().manual_seed(seed)
    config = model.config
    V, D, L = config.vocab_size, config.n_embd, config.n_layer
    model.emb.weight.uniform_(-EMBEDDING_RANGE, EMBEDDING_RANGE, generator=source)
    gain = 0.5 * math.sqrt(V / D) if V > D else 0.5
    nn.init.orthogonal_(model.head.weight, gain=gain, generator=source)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm):
            module.weight.fill_(1)
            module.bias.zero_()
    gains = GAINS["4" if config.generation == "4" else "5.2"]
    for layer in range(L):
        block = model.get_submodule(f"blocks.{layer}")
        for name, parameter in block.named_parameters():
            if name.endswith(".weight") and parameter.ndim == 2:
                rows, columns = parameter.shape
                usual = math.sqrt(max(1.0, rows / columns))
                scale = gains.get(name.removesuffix(".weight"), usual)
                nn.init.orthogonal_(parameter, gain=scale, generator=source)
            elif ".time_" in name:
                value = _time_value(name, parameter, config, layer, source)
                parameter.copy_(value.view_as(parameter))
            elif name == "att.ln_x.weight":
                parameter.fill_(((1 + layer) / L) ** 0.7)


def _time_value(
    name: str, parameter: Tensor, config: parts.Config, layer: int, source: torch.Generator
) -> Tensor:
    """Return the initial value of a tensor of token shift, decay or bonus."""
    part, kind = name.split(".")
    depth, rest = layer / max(1, config.n_layer - 1), 1 - layer / config.n_layer
    n = torch.arange(config.dim_att, dtype=torch.float32)
    ramp, zigzag = n / (config.dim_att - 1), (n + 1) % 3 - 1
    if kind.endswith(("_w1", "_w2")):
        if kind.endswith("_w1"):
            return torch.zeros_like(parameter)
        return torch.empty_like(parameter).uniform_(-SMALL_RANGE, SMALL_RANGE, generator=source)
    if kind == "time_decay":
        exponent = 0.7 + 1.3 * depth
        return -5 + 8 * ramp**exponent if config.generation == "4" else -6 + 5 * ramp**exponent
    if kind == "time_first":
        return math.log(0.3) + 0.5 * zigzag
    if kind == "time_faaaa":
        return depth * (1 - ramp) + 0.1 * zigzag
    q = torch.arange(config.n_embd, dtype=torch.float32) / config.n_embd
    letter = kind.rpartition("_")[2]
    share = q ** (0.5 * rest if part == "att" and letter in "rg" else rest)
    if part == "att" and letter == "v":
        share = share + 0.3 * depth
    return 1 - share if kind.startswith("time_maa") else share
