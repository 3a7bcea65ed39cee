"""Set the initial weights of RWKV-7 as its official training script does.

    l = layer, L = layers, depth = l / (L - 1), rest = 1 - l / L, q[i] = i / D

Source: BlinkDL/RWKV-LM, RWKV-v7/train_temp/src/model.py (constructors, generate_init_weight).
"""

import math

import torch
from torch import Tensor, nn

from wkv.errors import TrainingError
from wkv.models.rwkv7 import RWKV7, Block, Config, TimeMix
from wkv.train.settings import check_whole

HEAD_SIZE = 64
MIX_POWERS = {"x_r": 0.2, "x_g": 0.2, "x_w": 0.9, "x_a": 0.9, "x_k": 0.7, "x_v": 0.7}
"""Exponents of the initial token shifts."""

EMBEDDING_RANGE = 1e-4
"""Range of the embedding. It is tiny because ln0 follows: small vectors change direction fast."""


def new_config(
    vocab_size: int, n_layer: int, n_embd: int, *, rank: int = 32, gate_rank: int = 64
) -> Config:
    """Return the config of a new model, with heads of size 64 and a channel mix of 4 D.

    Raises:
        TrainingError: if a size is not allowed.
    """
    check_whole("layers", n_layer)
    check_whole("width", n_embd)
    if n_embd % HEAD_SIZE:
        raise TrainingError(
            f"--width {n_embd} cannot be divided into heads of {HEAD_SIZE}; "
            f"give a multiple of {HEAD_SIZE}"
        )
    return Config(
        generation="7",
        n_layer=n_layer,
        n_embd=n_embd,
        vocab_size=vocab_size,
        dim_att=n_embd,
        dim_ffn=4 * n_embd,
        n_head=n_embd // HEAD_SIZE,
        head_size=HEAD_SIZE,
        decay_rank=rank,
        a_rank=rank,
        value_rank=rank,
        gate_rank=gate_rank,
    )


@torch.no_grad()
def initialize(model: RWKV7, seed: int) -> None:
    """Set the initial value of every tensor of the model; equal seeds give equal values."""
    source = torch.Generator().manual_seed(seed)
    config = model.config
    assert isinstance(config, Config)
    V, D = config.vocab_size, config.n_embd
    model.emb.weight.uniform_(-EMBEDDING_RANGE, EMBEDDING_RANGE, generator=source)
    _orthogonal(model.head.weight, 0.5 * math.sqrt(V / D) if V > D else 0.5, source)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        rest = 1 - layer / config.n_layer
        _initialize_time_mix(block.att, layer, config, source)
        block.ffn.x_k.copy_(_mix(D, rest**4))
        _orthogonal(block.ffn.key.weight, 1, source)
        block.ffn.value.weight.zero_()


def _initialize_time_mix(att: TimeMix, layer: int, config: Config, source: torch.Generator) -> None:
    """Initialize a time mix.

    Token shifts depend on the depth of the layer, decays go from slow to fast over the channels,
    and the products of low-rank maps are zero.
    """
    A, N, L = config.dim_att, config.head_size, config.n_layer
    depth, rest = layer / max(1, L - 1), 1 - layer / L
    for name, power in MIX_POWERS.items():
        getattr(att, name).copy_(_mix(config.n_embd, power * rest))

    n = torch.arange(A, dtype=torch.float32)
    ramp = n / (A - 1)  # 0 to 1 over all channels
    linear = ramp - 0.5
    in_head = ((n % N) - (N - 1) / 2) / ((N - 1) / 2)  # -1 to 1 over the channels of each head
    zigzag = in_head * in_head.abs()
    att.w0.copy_((-6 + 6 * ramp ** (1 + depth**0.3) + 0.5 + 2.5 * zigzag).view(1, 1, A))
    att.a0.copy_((-0.19 + 0.3 * zigzag + 0.4 * linear).view(1, 1, A))
    att.k_k.copy_((0.71 - 0.1 * linear).view(1, 1, A))
    att.k_a.fill_(1.02)
    att.r_k.fill_(-0.04)

    pairs = [(att.w1, att.w2), (att.a1, att.a2), (att.g1, att.g2)]
    if layer > 0:
        att.v0.copy_((0.73 - 0.4 * linear).view(1, 1, A))
        pairs.append((att.v1, att.v2))
    for inner, outer in pairs:
        inner.zero_()
        rows, columns = outer.shape
        _orthogonal(outer, 0.1 * max(1, math.sqrt(rows / columns)), source)
    for matrix, gain in ((att.receptance, 1), (att.key, 0.1), (att.value, 1)):
        _orthogonal(matrix.weight, gain, source)
    att.output.weight.zero_()
    att.ln_x.weight.fill_(((1 + layer) / L) ** 0.7)
    att.ln_x.bias.zero_()


def _mix(channels: int, power: float) -> Tensor:
    """Return 1 - q^power for all channels, (1, 1, D)."""
    q = torch.arange(channels, dtype=torch.float32) / channels
    return (1 - q**power).view(1, 1, channels)


def _orthogonal(weight: Tensor, gain: float, source: torch.Generator) -> None:
    """Set a weight to a random (semi-)orthogonal matrix times `gain`."""
    nn.init.orthogonal_(weight, gain=gain, generator=source)
