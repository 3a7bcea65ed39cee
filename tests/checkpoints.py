"""Random checkpoints of every generation, with the names and shapes of official .pth files.

The values keep every part of a model awake: logits have about unit standard deviation, decays run
from slow to fast, token shifts leave [0, 1], low-rank parts are as large as what they are added to,
and no two ranks are equal, so that swapped factors show. Knows nothing of the models themselves.
"""

import math

import torch

GENERATIONS = ("4", "5.0", "5.1", "5.2", "6", "7", "7a")
DEEP_EMBED_RANK = 32
# Gain of each matrix of a time mix with heads. A head whose readout r.k happens to be near zero has
# its float32 noise raised by group norm, up to 1 / sqrt(64e-5) = 40 times; small r and k keep that
# noise below the tests' tolerances.
PROJECTIONS = {"receptance": 0.5, "key": 0.5, "value": 1.0, "output": 1.0}


def random_checkpoint(
    generation, *, n_layer=3, n_embd=128, head_size=32, vocab_size=300, n_ffn=None, seed=0
):
    """Build a checkpoint: raw .pth name to float32 tensor, in the order of official files.

    The order matters to the `rwkv` package, which learns the generation and the head count while it
    reads the names.

    Args:
        generation: one of GENERATIONS.
        n_layer: number of blocks; the `rwkv` package needs two or more for generations 5.x.
        n_embd: width D of the embedding and of the time mix.
        head_size: N, a divisor of n_embd; generation 4 has no heads.
        vocab_size: V.
        n_ffn: width F of the channel mix; the generation's usual width by default.
        seed: equal seeds give equal checkpoints.
    """
    if generation not in GENERATIONS:
        raise ValueError(f"generation {generation!r} is none of {', '.join(GENERATIONS)}")
    if n_embd % head_size:
        raise ValueError(f"head_size {head_size} does not divide n_embd {n_embd}")
    if n_ffn is None:
        n_ffn = 4 * n_embd if generation in ("4", "7", "7a") else int(3.5 * n_embd) // 32 * 32
    draw = Draw(seed)

    tensors = {"emb.weight": draw.normal(vocab_size, n_embd)}
    for l in range(n_layer):
        parts = {}
        for name in ["ln1", "ln2", "ln0"][: 3 if l == 0 else 2]:
            parts |= draw.norm(name, n_embd)
        parts |= prefixed("att.", time_mix(generation, draw, n_embd, head_size))
        parts |= prefixed("ffn.", channel_mix(generation, draw, n_embd, n_ffn, vocab_size))
        tensors |= prefixed(f"blocks.{l}.", parts)
    tensors |= draw.norm("ln_out", n_embd)
    tensors["head.weight"] = draw.linear(vocab_size, n_embd)
    return tensors


def save_pth(tensors, path):
    """Write a checkpoint as an official file is written."""
    torch.save(tensors, path)


def small_checkpoints(folder):
    """Write a small random .pth file for each generation; return their paths by generation."""
    for name in GENERATIONS:
        save_pth(random_checkpoint(name, n_layer=2, n_embd=64), folder / name)
    return {name: folder / name for name in GENERATIONS}


def time_mix(generation, draw, n_embd, head_size):
    """Give the `att.` tensors of one block."""
    if generation in ("7", "7a"):
        return time_mix_7(draw, n_embd, head_size)
    if generation == "6":
        return time_mix_6(draw, n_embd, head_size)
    return time_mix_4_and_5(generation, draw, n_embd, head_size)


def time_mix_4_and_5(generation, draw, D, N):
    """Give the tensors of 4, 5.0, 5.1, 5.2: a decay per channel, head, head, key channel."""
    H = D // N
    shape = {"4": (D,), "5.0": (H,), "5.1": (H,), "5.2": (H, N)}[generation]
    gated = generation in ("5.1", "5.2")
    parts = {f"time_mix_{c}": draw.share(1, 1, D) for c in ("kvrg" if gated else "kvr")}
    parts["time_decay"] = draw.spread(-5.0, 1.0, *shape)
    parts["time_faaaa" if gated else "time_first"] = draw.normal(*shape, std=0.7)
    if generation == "4":
        return parts | {f"{name}.weight": draw.linear(D, D) for name in PROJECTIONS}
    gains = PROJECTIONS | ({"gate": 1.0} if gated else {"output": 0.5})  # half, as a gate would
    for name, gain in gains.items():
        parts[f"{name}.weight"] = draw.linear(D, D, gain)
    return parts | draw.norm("ln_x", D)


def time_mix_6(draw, D, N):
    H = D // N
    M, R = (32, 64) if D >= 512 else (12, 20)
    parts = {f"time_maa_{c}": draw.share(1, 1, D) for c in "xwkvrg"}
    parts["time_maa_w1"] = draw.factor(D, 5 * M)
    parts["time_maa_w2"] = torch.stack([draw.factor(M, D, gain=0.5) for _ in range(5)])
    parts["time_decay"] = draw.spread(-5.0, 1.0, 1, 1, D)
    parts["time_decay_w1"] = draw.factor(D, R)
    parts["time_decay_w2"] = draw.factor(R, D)
    parts["time_faaaa"] = draw.normal(H, N, std=0.7)
    for name, gain in (PROJECTIONS | {"gate": 1.0}).items():
        parts[f"{name}.weight"] = draw.linear(D, D, gain)
    return parts | draw.norm("ln_x", D)


def time_mix_7(draw, D, N):
    H = D // N
    # w and a have equal ranks in official models; here they differ, so that a mix-up shows
    ranks = (64, 72, 32, 128) if D >= 512 else (24, 20, 16, 40)
    parts = {f"x_{c}": draw.share(1, 1, D) for c in "rwkvag"}
    parts["w0"] = draw.spread(-6.0, 3.0, 1, 1, D)
    parts["a0"] = draw.normal(1, 1, D, std=0.7)
    parts["v0"] = draw.normal(1, 1, D, std=0.7)
    for c, rank in zip("wavg", ranks, strict=True):
        parts[f"{c}1"] = draw.factor(D, rank)
        parts[f"{c}2"] = draw.factor(rank, D, gain=2.0 if c == "g" else 1.0)  # sigmoid halves g
    parts["k_k"] = 0.8 + draw.normal(1, 1, D, std=0.2)
    parts["k_a"] = 1.0 + draw.normal(1, 1, D, std=0.2)
    parts["r_k"] = draw.normal(H, N, std=1 / math.sqrt(N))
    for name, gain in PROJECTIONS.items():
        parts[f"{name}.weight"] = draw.linear(D, D, gain)
    return parts | draw.norm("ln_x", D)


def channel_mix(generation, draw, n_embd, n_ffn, vocab_size):
    """Give the `ffn.` tensors of one block."""
    if generation in ("7", "7a"):
        parts = {"x_k": draw.share(1, 1, n_embd)}
    else:
        mix = "time_maa" if generation == "6" else "time_mix"
        parts = {f"{mix}_{c}": draw.share(1, 1, n_embd) for c in "kr"}
    parts["key.weight"] = draw.linear(n_ffn, n_embd)
    if generation not in ("7", "7a"):
        parts["receptance.weight"] = draw.linear(n_embd, n_embd)
    parts["value.weight"] = draw.linear(n_embd, n_ffn)
    if generation == "7a":
        R = DEEP_EMBED_RANK
        half = 1 / math.sqrt(2 * R)  # the two parts of the token's matrix are equally large
        parts["s_emb.weight"] = draw.normal(vocab_size, R * R, std=half)
        parts["s_emb_x.weight"] = draw.linear(R * R, n_embd, gain=half)
        parts["s0"] = 1.0 + draw.normal(1, 1, n_ffn, std=0.2)
        parts["s1"] = draw.factor(n_embd, R)
        parts["s2"] = draw.factor(R, n_ffn, gain=0.5)
    return parts


def prefixed(prefix, parts):
    return {prefix + name: tensor for name, tensor in parts.items()}


class Draw:
    """Seeded tensors by their use: what reads a vector of unit size gives one of unit size."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=1.0):
        return torch.randn(shape, generator=self.generator).mul_(std)

    def linear(self, n_out, n_in, gain=1.0):
        """Give a Linear weight, stored (out, in)."""
        return self.normal(n_out, n_in, std=gain / math.sqrt(n_in))

    def factor(self, n_in, n_out, gain=1.0):
        """Give a low-rank factor, stored (in, out)."""
        return self.normal(n_in, n_out, std=gain / math.sqrt(n_in))

    def share(self, *shape):
        """Give token-shift weights; they may leave [0, 1] in trained models too."""
        return torch.rand(shape, generator=self.generator) * 1.4 - 0.2

    def spread(self, low, high, *shape):
        """Give values evenly from low to high, in random order: slow and fast in every head."""
        count = math.prod(shape)
        order = torch.randperm(count, generator=self.generator)
        return torch.linspace(low, high, count)[order].reshape(shape)

    def norm(self, name, width):
        """Give weight and bias of a layer or group norm."""
        return {
            f"{name}.weight": 1.0 + self.normal(width, std=0.1),
            f"{name}.bias": self.normal(width, std=0.1),
        }
