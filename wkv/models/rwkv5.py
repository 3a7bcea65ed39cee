"""The RWKV-5 "Eagle" network: the state is a matrix per head, with constant decays.

Time mix, with x the token's input, p the previous token's and mix(m) = x m + p (1 - m):

    r = R mix(m_r) ;  k = K mix(m_k) ;  v = V mix(m_v) ;  g = silu(G mix(m_g))
    y = r (u k v^T + S)  per head ;   S <- diag(w) S + k v^T      w = e^(-e^time_decay)
    out = O (norm(y) g)

Three releases have different parameters. 5.0 has no gate, and one decay and one bonus
u = e^time_first per head. 5.1 has a gate, and u = time_faaaa. 5.2 has one decay and one bonus per
head and channel. The module is built for one of the releases.

Channel mix: out = sigmoid(R mix(m_r)) V relu(K mix(m_k))^2.

Source: paper "Eagle and Finch", arXiv 2404.05892.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wkv.models import parts
from wkv.models.parts import Block, Linear, Recurrence, Shapes, token_shift, vector
from wkv.models.rwkv4 import ChannelMix
from wkv.ops.wkv5 import wkv5
from wkv.ops.wkv6 import wkv6


@dataclass(frozen=True, kw_only=True)
class Config(parts.Config):
    """The sizes of an RWKV-5 model; decay_size is 1 (one decay per head) or the head size."""

    n_head: int
    head_size: int
    decay_size: int


def config_from_shapes(shapes: Shapes) -> Config:
    """Derive the sizes and the release of a model from the shapes of its tensors."""
    sizes = parts.sizes(shapes)
    heads, *rest = shapes["blocks.0.att.time_decay"]
    decay_size = rest[0] if rest else 1
    if "blocks.0.att.gate.weight" not in shapes:
        generation = "5.0"
    else:
        generation = "5.1" if decay_size == 1 else "5.2"
    return Config(
        generation=generation,
        **sizes,
        n_head=heads,
        head_size=sizes["dim_att"] // heads,
        decay_size=decay_size,
    )


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a model."""
    D, A, F = config.n_embd, config.dim_att, config.dim_ffn
    mix, per_head = (1, 1, D), (config.n_head, config.decay_size)
    is_gated = config.generation != "5.0"
    block: dict[str, tuple[int, ...]] = {
        "att.time_decay": per_head,
        ("att.time_faaaa" if is_gated else "att.time_first"): per_head,
        "att.time_mix_k": mix,
        "att.time_mix_v": mix,
        "att.time_mix_r": mix,
        **({"att.time_mix_g": mix} if is_gated else {}),
        "att.receptance.weight": (A, D),
        "att.key.weight": (A, D),
        "att.value.weight": (A, D),
        **({"att.gate.weight": (A, D)} if is_gated else {}),
        "att.output.weight": (D, A),
        "att.ln_x.weight": (A,),
        "att.ln_x.bias": (A,),
        "ffn.time_mix_k": mix,
        "ffn.time_mix_r": mix,
        "ffn.key.weight": (F, D),
        "ffn.receptance.weight": (D, D),
        "ffn.value.weight": (D, F),
    }
    return parts.network_shapes(config, lambda _: block)


class TimeMix(nn.Module):
    """The recurrent part of a layer of 5.1 and 5.2."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        D, A = config.n_embd, config.dim_att
        self.config = config
        self.wkv: Recurrence = wkv5
        self.wkv_of_padded: Recurrence = wkv6
        self.time_decay = vector(config.n_head, config.decay_size)
        self.make_bonus(config)
        self.time_mix_k = vector(1, 1, D)
        self.time_mix_v = vector(1, 1, D)
        self.time_mix_r = vector(1, 1, D)
        self.receptance = Linear(D, A)
        self.key = Linear(D, A)
        self.value = Linear(D, A)
        self.make_gate(config)
        self.output = Linear(A, D)
        self.ln_x = nn.GroupNorm(config.n_head, A, eps=config.group_norm_eps)

    def make_bonus(self, config: Config) -> None:
        """Create the parameter that `bonus` uses."""
        self.time_faaaa = vector(config.n_head, config.decay_size)

    def make_gate(self, config: Config) -> None:
        """Create the parameters that `gated` uses."""
        self.time_mix_g = vector(1, 1, config.n_embd)
        self.gate = Linear(config.n_embd, config.dim_att)

    def bonus(self) -> Tensor:
        """Return the bonus u, (H, 1) or (H, N)."""
        return self.time_faaaa

    def gated(self, y: Tensor, x: Tensor, shifted: Tensor) -> Tensor:
        """Multiply the normalized output by its gate."""
        return y * F.silu(self.gate(torch.lerp(shifted, x, self.time_mix_g)))

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states."""
        heads = (*x.shape[:2], self.config.n_head, self.config.head_size)
        shifted, last = token_shift(x, last, lengths)
        mixed = parts.mix(shifted, x, (self.time_mix_r, self.time_mix_k, self.time_mix_v))
        x_r, x_k, x_v = mixed.to(self.key.input_dtype)
        r = self.receptance(x_r).view(heads)
        k = self.key(x_k).view(heads)
        v = self.value(x_v).view(heads)
        log_decay = -torch.exp(self.time_decay)
        real = parts.real_tokens(x, lengths)
        if real is None:
            y, state = self.wkv(r, log_decay, k, v, self.bonus(), state)
        else:  # with padding the decay depends on the token, so the recurrence of RWKV-6 is used
            decays = (log_decay * real).expand(heads)
            y, state = self.wkv_of_padded(r, decays, k * real, v, self.bonus(), state)
        y = parts.group_norm(y, self.ln_x, self.config.group_norm_eps)
        return self.output(self.gated(y, x, shifted)), last, state


class UngatedTimeMix(TimeMix):
    """The recurrent part of a layer of 5.0, which has no gate and the bonus e^time_first."""

    def make_bonus(self, config: Config) -> None:
        """Create the parameter that `bonus` uses."""
        self.time_first = vector(config.n_head, config.decay_size)

    def make_gate(self, config: Config) -> None:
        """Create nothing, because 5.0 has no gate."""

    def bonus(self) -> Tensor:
        """Return the bonus u, (H, 1)."""
        return torch.exp(self.time_first)

    def gated(self, y: Tensor, x: Tensor, shifted: Tensor) -> Tensor:
        """Return the normalized output unchanged."""
        return y


class RWKV5(parts.Skeleton):
    """An RWKV-5 network."""

    def __init__(self, config: Config) -> None:
        time_mix = UngatedTimeMix if config.generation == "5.0" else TimeMix
        super().__init__(
            config, lambda layer: Block(config, layer, time_mix(config), ChannelMix(config))
        )
