"""The RWKV-4 "Dove" network: attention without queries, a running mean weighted by e^key.

Time mix, with x the token's input, p the previous token's and mix(m) = x m + p (1 - m):

    r = sigmoid(R mix(m_r)) ;  k = K mix(m_k) ;  v = V mix(m_v)
    wkv = sum_i e^((t-1-i) W + k_i) v_i / sum_i e^(...)      W = -e^time_decay, bonus time_first
    out = O (r wkv)

Channel mix: out = sigmoid(R mix(m_r)) V relu(K mix(m_k))^2.

Source: paper "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048.
"""

import torch
from torch import Tensor, nn

from wkv.models import parts
from wkv.models.parts import Block, Config, Linear, Recurrence, Shapes, token_shift, vector
from wkv.ops.wkv4 import MINUS_INFINITY, wkv4


def config_from_shapes(shapes: Shapes) -> Config:
    """Derive the sizes of a model from the shapes of its tensors."""
    return Config(generation="4", **parts.sizes(shapes))


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a model."""
    D, A, F = config.n_embd, config.dim_att, config.dim_ffn
    mix = (1, 1, D)
    block: dict[str, tuple[int, ...]] = {
        "att.time_decay": (A,),
        "att.time_first": (A,),
        "att.time_mix_k": mix,
        "att.time_mix_v": mix,
        "att.time_mix_r": mix,
        "att.key.weight": (A, D),
        "att.value.weight": (A, D),
        "att.receptance.weight": (A, D),
        "att.output.weight": (D, A),
        "ffn.time_mix_k": mix,
        "ffn.time_mix_r": mix,
        "ffn.key.weight": (F, D),
        "ffn.receptance.weight": (D, D),
        "ffn.value.weight": (D, F),
    }
    return parts.network_shapes(config, lambda _: block)


class TimeMix(nn.Module):
    """The recurrent part of a layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        D, A = config.n_embd, config.dim_att
        self.wkv: Recurrence = wkv4
        self.time_decay = vector(A)
        self.time_first = vector(A)
        self.time_mix_k = vector(1, 1, D)
        self.time_mix_v = vector(1, 1, D)
        self.time_mix_r = vector(1, 1, D)
        self.key = Linear(D, A)
        self.value = Linear(D, A)
        self.receptance = Linear(D, A)
        self.output = Linear(A, D)

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states."""
        shifted, last = token_shift(x, last, lengths)
        mixed = parts.mix(shifted, x, (self.time_mix_r, self.time_mix_k, self.time_mix_v))
        x_r, x_k, x_v = mixed.to(self.key.input_dtype)
        r = torch.sigmoid(self.receptance(x_r))
        k = self.key(x_k)
        v = self.value(x_v)
        log_decay = -torch.exp(self.time_decay)
        real = parts.real_tokens(x, lengths)
        if real is not None:  # padding neither decays the state nor contributes to it
            real = real[..., 0]
            log_decay = log_decay * real
            k = torch.where(real > 0, k, MINUS_INFINITY)
        y, state = self.wkv(log_decay, self.time_first, k, v, state)
        return self.output(r * y), last, state


class ChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU and a gate."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.time_mix_k = vector(1, 1, config.n_embd)
        self.time_mix_r = vector(1, 1, config.n_embd)
        self.key = Linear(config.n_embd, config.dim_ffn)
        self.receptance = Linear(config.n_embd, config.n_embd)
        self.value = Linear(config.dim_ffn, config.n_embd)

    def forward(self, x: Tensor, last: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        shifted, last = token_shift(x, last, lengths)
        mixed = parts.mix(shifted, x, (self.time_mix_r, self.time_mix_k))
        x_r, x_k = mixed.to(self.key.input_dtype)
        r = torch.sigmoid(self.receptance(x_r))
        return r * parts.squared_relu(x_k, self.key, self.value), last


class RWKV4(parts.Skeleton):
    """An RWKV-4 network."""

    def __init__(self, config: Config) -> None:
        super().__init__(
            config, lambda layer: Block(config, layer, TimeMix(config), ChannelMix(config))
        )

    def new_wkv(self, shift: Tensor) -> Tensor:
        """Return the initial state of a layer, (B, 3, A): zeros, and largest exponents of -inf."""
        state = shift.new_zeros(len(shift), 3, self.config.dim_att)
        state[:, 2] = MINUS_INFINITY
        return state
