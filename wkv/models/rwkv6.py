"""The RWKV-6 "Finch" network: RWKV-5 with token shifts and decays that depend on the token.

Time mix, with x the token's input, p the previous token's and d = p - x:

    z = tanh((x + d maa_x) W1), five blocks z_j for j in w, k, v, r, g ;  m_j = z_j W2_j
    x_j = x + d (maa_j + m_j)
    r = R x_r ;  k = K x_k ;  v = V x_v ;  g = silu(G x_g)
    w = e^(-e^(time_decay + tanh(x_w D1) D2))
    y = r (u k v^T + S)  per head ;   S <- diag(w) S + k v^T      u = time_faaaa
    out = O (norm(y) g)

Channel mix: out = sigmoid(R (x + d maa_r)) V relu(K (x + d maa_k))^2.

Source: paper "Eagle and Finch", arXiv 2404.05892.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wkv.models import parts
from wkv.models.parts import Block, Linear, Recurrence, Shapes, token_shift, vector
from wkv.models.strategy.products import matmul
from wkv.ops.wkv6 import wkv6


@dataclass(frozen=True, kw_only=True)
class Config(parts.Config):
    """The sizes of an RWKV-6 model, including the ranks of its low-rank maps."""

    n_head: int
    head_size: int
    mix_rank: int
    decay_rank: int


def config_from_shapes(shapes: Shapes) -> Config:
    """Derive the sizes of a model from the shapes of its tensors."""
    heads, size = shapes["blocks.0.att.time_faaaa"]
    return Config(
        generation="6",
        **parts.sizes(shapes),
        n_head=heads,
        head_size=size,
        mix_rank=shapes["blocks.0.att.time_maa_w2"][1],
        decay_rank=shapes["blocks.0.att.time_decay_w1"][1],
    )


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a model."""
    D, A, F = config.n_embd, config.dim_att, config.dim_ffn
    M, R, mix = config.mix_rank, config.decay_rank, (1, 1, D)
    block: dict[str, tuple[int, ...]] = {
        **{f"att.time_maa_{name}": mix for name in "xwkvrg"},
        "att.time_maa_w1": (D, 5 * M),
        "att.time_maa_w2": (5, M, D),
        "att.time_decay": (1, 1, A),
        "att.time_decay_w1": (D, R),
        "att.time_decay_w2": (R, A),
        "att.time_faaaa": (config.n_head, config.head_size),
        **{f"att.{name}.weight": (A, D) for name in ("receptance", "key", "value", "gate")},
        "att.output.weight": (D, A),
        "att.ln_x.weight": (A,),
        "att.ln_x.bias": (A,),
        "ffn.time_maa_k": mix,
        "ffn.time_maa_r": mix,
        "ffn.key.weight": (F, D),
        "ffn.receptance.weight": (D, D),
        "ffn.value.weight": (D, F),
    }
    return parts.network_shapes(config, lambda _: block)


class TimeMix(nn.Module):
    """The recurrent part of a layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        D, A, M, R = config.n_embd, config.dim_att, config.mix_rank, config.decay_rank
        self.config = config
        self.wkv: Recurrence = wkv6
        self.time_maa_x, self.time_maa_w = vector(1, 1, D), vector(1, 1, D)
        self.time_maa_k, self.time_maa_v = vector(1, 1, D), vector(1, 1, D)
        self.time_maa_r, self.time_maa_g = vector(1, 1, D), vector(1, 1, D)
        self.time_maa_w1, self.time_maa_w2 = vector(D, 5 * M), vector(5, M, D)
        self.time_decay = vector(1, 1, A)
        self.time_decay_w1, self.time_decay_w2 = vector(D, R), vector(R, A)
        self.time_faaaa = vector(config.n_head, config.head_size)
        self.receptance = Linear(D, A)
        self.key = Linear(D, A)
        self.value = Linear(D, A)
        self.gate = Linear(D, A)
        self.output = Linear(A, D)
        self.ln_x = nn.GroupNorm(config.n_head, A, eps=config.group_norm_eps)

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states."""
        heads = (*x.shape[:2], self.config.n_head, self.config.head_size)
        shifted, last = token_shift(x, last, lengths)
        x_x = torch.lerp(x, shifted, self.time_maa_x)
        mixed = torch.lerp(x, shifted, self.token_mixes(x_x))
        x_w, x_k, x_v, x_r, x_g = mixed.to(self.key.input_dtype)

        r = self.receptance(x_r).view(heads)
        k = self.key(x_k).view(heads)
        v = self.value(x_v).view(heads)
        g = F.silu(self.gate(x_g))
        raw_decay = self.time_decay + parts.low_rank(
            x_w, self.time_decay_w1, self.time_decay_w2, torch.tanh
        )
        log_decay = -torch.exp(raw_decay).view(heads)

        real = parts.real_tokens(x, lengths)
        if real is not None:  # padding neither decays the state nor writes to it
            log_decay, k = log_decay * real, k * real
        y, state = self.wkv(r, log_decay, k, v, self.time_faaaa, state)
        y = parts.group_norm(y, self.ln_x, self.config.group_norm_eps)
        return self.output(y * g), last, state

    def token_mixes(self, x: Tensor) -> Tensor:
        """Return the five shares of the previous token (5, B, T, D), in the order w, k, v, r, g."""
        batch, tokens, _ = x.shape
        z = torch.tanh(x.to(self.time_maa_w1.dtype) @ self.time_maa_w1)
        m = matmul(z.view(batch * tokens, 5, -1).transpose(0, 1), self.time_maa_w2)  # (5, B T, D)
        constant = torch.stack(
            (self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g)
        )
        return constant + m.view(5, batch, tokens, -1)


class ChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU and a gate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.time_maa_k = vector(1, 1, config.n_embd)
        self.time_maa_r = vector(1, 1, config.n_embd)
        self.key = Linear(config.n_embd, config.dim_ffn)
        self.receptance = Linear(config.n_embd, config.n_embd)
        self.value = Linear(config.dim_ffn, config.n_embd)

    def forward(self, x: Tensor, last: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        shifted, last = token_shift(x, last, lengths)
        mixed = parts.mix(x, shifted, (self.time_maa_r, self.time_maa_k))
        x_r, x_k = mixed.to(self.key.input_dtype)
        r = torch.sigmoid(self.receptance(x_r))
        return r * parts.squared_relu(x_k, self.key, self.value), last


class RWKV6(parts.Skeleton):
    """An RWKV-6 network."""

    def __init__(self, config: Config) -> None:
        super().__init__(
            config, lambda layer: Block(config, layer, TimeMix(config), ChannelMix(config))
        )
