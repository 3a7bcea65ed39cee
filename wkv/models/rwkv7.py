"""The RWKV-7 "Goose" network: the state is a matrix per head, updated by a generalized delta rule.

Time mix, with x the token's input, p the previous token's and x_c = x + (p - x) x_c(param):

    r = R x_r ;  k = K x_k ;  v = V x_v
    log w = -e^(-1/2) sigmoid(w0 + tanh(x_w w1) w2)
    a = sigmoid(a0 + x_a a1 a2) ;  g = sigmoid(x_g g1) g2
    kappa = k k_k, normalized to length 1 per head ;  k <- k (1 + (a - 1) k_a)
    v <- v + (v_first - v) sigmoid(v0 + x_v v1 v2)          (layers > 0; v_first: layer 0's v)
    S <- S diag(w) - (S kappa) (kappa a)^T + v k^T ;  y = S r
    out = O ((norm(y) + (r . k r_k) v) g)

Channel mix: out = V relu(K x_k)^2.

Source: paper "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv 2503.14456.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wkv.models import parts
from wkv.models.parts import Linear, Recurrence, Shapes, low_rank, token_shift, vector
from wkv.models.state import LayerState
from wkv.ops.wkv7 import wkv7

DECAY_SCALE = math.exp(-0.5)
"""The scale of log w. The strongest decay of a step is exp(-DECAY_SCALE) = 0.545."""

KAPPA_NORM_FLOOR = 1e-12
"""Lower limit of the length by which kappa is divided."""


@dataclass(frozen=True, kw_only=True)
class Config(parts.Config):
    """The sizes of an RWKV-7 model, including the ranks of its low-rank maps."""

    n_head: int
    head_size: int
    decay_rank: int
    a_rank: int
    value_rank: int
    gate_rank: int


def config_from_shapes(shapes: Shapes) -> Config:
    """Derive the sizes of a model from the shapes of its tensors."""
    heads, size = shapes["blocks.0.att.r_k"]
    # Block 0 may lack v1, which it does not use, so the v1 of the last block is read.
    value_ranks = [shape[1] for name, shape in shapes.items() if name.endswith(".att.v1")]
    return Config(
        generation="7",
        **parts.sizes(shapes),
        n_head=heads,
        head_size=size,
        decay_rank=shapes["blocks.0.att.w1"][1],
        a_rank=shapes["blocks.0.att.a1"][1],
        value_rank=value_ranks[-1] if value_ranks else 0,
        gate_rank=shapes["blocks.0.att.g1"][1],
    )


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a model."""
    D, F = config.n_embd, config.dim_ffn
    ffn: dict[str, tuple[int, ...]] = {
        "ffn.x_k": (1, 1, D),
        "ffn.key.weight": (F, D),
        "ffn.value.weight": (D, F),
    }
    return parts.network_shapes(config, lambda layer: time_mix_shapes(config, layer) | ffn)


def time_mix_shapes(config: Config, layer: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the time mix of a layer."""
    D, A = config.n_embd, config.dim_att
    ranks = {"w": config.decay_rank, "a": config.a_rank}
    if layer > 0:
        ranks["v"] = config.value_rank
    shapes: dict[str, tuple[int, ...]] = {f"att.x_{name}": (1, 1, D) for name in "rwkvag"}
    for name, rank in ranks.items():
        shapes[f"att.{name}0"] = (1, 1, A)
        shapes[f"att.{name}1"], shapes[f"att.{name}2"] = (D, rank), (rank, A)
    shapes["att.g1"], shapes["att.g2"] = (D, config.gate_rank), (config.gate_rank, A)
    shapes["att.k_k"] = shapes["att.k_a"] = (1, 1, A)
    shapes["att.r_k"] = (config.n_head, config.head_size)
    shapes |= {f"att.{name}.weight": (A, D) for name in ("receptance", "key", "value")}
    shapes["att.output.weight"] = (D, A)
    return shapes | {"att.ln_x.weight": (A,), "att.ln_x.bias": (A,)}


class TimeMix(nn.Module):
    """The recurrent part of a layer. Layer 0 has no v0, v1 and v2, because it defines v_first."""

    def __init__(self, config: Config, layer: int, wkv: Recurrence) -> None:
        super().__init__()
        D, A = config.n_embd, config.dim_att
        self.config, self.wkv = config, wkv
        self.x_r, self.x_w, self.x_k = vector(1, 1, D), vector(1, 1, D), vector(1, 1, D)
        self.x_v, self.x_a, self.x_g = vector(1, 1, D), vector(1, 1, D), vector(1, 1, D)
        self.w0 = vector(1, 1, A)
        self.w1, self.w2 = vector(D, config.decay_rank), vector(config.decay_rank, A)
        self.a0 = vector(1, 1, A)
        self.a1, self.a2 = vector(D, config.a_rank), vector(config.a_rank, A)
        if layer > 0:
            self.v0 = vector(1, 1, A)
            self.v1, self.v2 = vector(D, config.value_rank), vector(config.value_rank, A)
        self.g1, self.g2 = vector(D, config.gate_rank), vector(config.gate_rank, A)
        self.k_k, self.k_a = vector(1, 1, A), vector(1, 1, A)
        self.r_k = vector(config.n_head, config.head_size)
        self.receptance = Linear(D, A)
        self.key = Linear(D, A)
        self.value = Linear(D, A)
        self.output = Linear(A, D)
        self.ln_x = nn.GroupNorm(config.n_head, A, eps=config.group_norm_eps)

    def forward(
        self,
        x: Tensor,
        last: Tensor,
        state: Tensor,
        v_first: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states and v_first.

        `v_first` is None for layer 0, which computes it.
        """
        heads = (*x.shape[:2], self.config.n_head, self.config.head_size)
        shifted, last = token_shift(x, last, lengths)
        shares = (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        mixed = parts.mix(x, shifted, shares).to(self.key.input_dtype)
        x_r, x_w, x_k, x_v, x_a, x_g = mixed

        r = self.receptance(x_r).view(heads)
        k = self.key(x_k)
        v = self.value(x_v)
        log_decay = -DECAY_SCALE * torch.sigmoid(
            self.w0 + low_rank(x_w, self.w1, self.w2, torch.tanh)
        )
        a = torch.sigmoid(self.a0 + low_rank(x_a, self.a1, self.a2))
        g = low_rank(x_g, self.g1, self.g2, torch.sigmoid)

        kappa = F.normalize((k * self.k_k).view(heads), dim=-1, eps=KAPPA_NORM_FLOOR)
        k = torch.lerp(k, k * a, self.k_a).view(heads)
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, torch.sigmoid(self.v0 + low_rank(x_v, self.v1, self.v2)))
        v = v.view(heads)

        log_decay, b = log_decay.view(heads), kappa * a.view(heads)
        written = k
        real = parts.real_tokens(x, lengths)
        if real is not None:  # padding neither decays the state, removes from it nor writes to it
            log_decay, b, written = log_decay * real, b * real, k * real
        y, state = self.wkv(r, log_decay, written, v, -kappa, b, state)

        y = parts.group_norm(y, self.ln_x, self.config.group_norm_eps)
        bonus = (r * k * self.r_k).sum(-1, keepdim=True)
        y = torch.addcmul(y.view(heads), bonus, v).flatten(2)
        return self.output(y * g), last, state, v_first


class ChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.x_k = vector(1, 1, config.n_embd)
        self.key = Linear(config.n_embd, config.dim_ffn)
        self.value = Linear(config.dim_ffn, config.n_embd)

    def forward(self, x: Tensor, last: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        shifted, last = token_shift(x, last, lengths)
        x_k = torch.lerp(x, shifted, self.x_k)
        return parts.squared_relu(x_k, self.key, self.value), last


class Block(nn.Module):
    """A layer of time mix and channel mix, each of which is added to the residual stream."""

    def __init__(self, config: Config, layer: int, wkv: Recurrence) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(config.n_embd)
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.att = TimeMix(config, layer, wkv)
        self.ffn = ChannelMix(config)

    def forward(
        self, X: Tensor, layer: LayerState, v_first: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, LayerState, Tensor]:
        """Update the residual stream (B, T, D) and the layer's state; return both and v_first."""
        out, att_shift, wkv, v_first = self.att(
            self.ln1(X), layer.att_shift, layer.wkv, v_first, lengths
        )
        X = X + out
        out, ffn_shift = self.ffn(self.ln2(X), layer.ffn_shift, lengths)
        return X + out, LayerState(att_shift, wkv, ffn_shift), v_first


class RWKV7(parts.Skeleton):
    """An RWKV-7 network; `wkv` is the implementation of the recurrence."""

    def __init__(self, config: Config, wkv: Recurrence = wkv7) -> None:
        super().__init__(config, lambda layer: Block(config, layer, wkv))

    def forward(
        self, ids: Tensor, layers: Sequence[LayerState], lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Compute `Skeleton.forward`, and pass the value of layer 0 to all layers above it."""
        X = self.embed(ids)
        v_first = None
        new_layers = []
        for block, layer in zip(self.blocks, layers, strict=True):
            X, layer, v_first = block(X, layer, v_first, lengths)
            lengths = parts.follow(X, lengths)
            new_layers.append(layer)
        return X, tuple(new_layers)
