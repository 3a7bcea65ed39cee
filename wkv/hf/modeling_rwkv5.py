"""RWKV-5 "Eagle" for transformers, with the tensor names of the hub's `Rwkv5ForCausalLM`.

Time mix, with x the token's input, p the previous token's and mix(m) = x m + p (1 - m):

    r = R mix(m_r) ;  k = K mix(m_k) ;  v = V mix(m_v) ;  g = silu(G mix(m_g))
    y = r (u k v^T + S)  per head ;   S <- diag(w) S + k v^T      w = e^(-e^time_decay)
    out = O (norm(y) g)

Three releases have different parameters. 5.0 has no gate, and one decay and one bonus
u = e^time_first per head. 5.1 has a gate, and u = time_faaaa. 5.2 has one decay and one bonus per
head and channel.

Channel mix: out = sigmoid(R mix(m_r)) V relu(K mix(m_k))^2.

Source: paper "Eagle and Finch", arXiv 2404.05892.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wkv.hf.config_checks import check
from wkv.hf.configuration_rwkv5 import Rwkv5Config
from wkv.hf.parts import (
    GroupNorm,
    LayerNorm,
    Padding,
    fill,
    linear,
    ramp,
    run,
    token_shift,
    vector,
    widen,
    zigzag,
)
from wkv.hf.skeleton import Backbone, CausalLM, HubBlock, PretrainedRwkv
from wkv.ops.wkv5 import wkv5
from wkv.ops.wkv6 import wkv6


class Rwkv5TimeMix(nn.Module):
    """The recurrent part of a layer."""

    def __init__(self, config: Rwkv5Config, layer: int) -> None:
        super().__init__()
        D, A, N = config.hidden_size, config.attention_hidden_size, config.head_size
        release = config.rwkv_generation
        check(release in ("5.0", "5.1", "5.2"), f"generation {release}", "5.0, 5.1 or 5.2")
        check(A % N == 0, f"heads of {N} in a width of {A}", "a head size that divides it")
        self.heads = (A // N, N)
        self.gated = release != "5.0"
        self.depth = layer / max(1, config.num_hidden_layers - 1)
        self.rest = 1 - layer / config.num_hidden_layers
        decays = self.heads if release == "5.2" else (A // N,)
        self.time_decay = vector(*decays)
        self.time_mix_key = vector(1, 1, D)
        self.time_mix_value = vector(1, 1, D)
        self.time_mix_receptance = vector(1, 1, D)
        self.receptance = nn.Linear(D, A, bias=False)
        self.key = nn.Linear(D, A, bias=False)
        self.value = nn.Linear(D, A, bias=False)
        self.output = nn.Linear(A, D, bias=False)
        if self.gated:
            self.time_faaaa = vector(*decays)
            self.time_mix_gate = vector(1, 1, D)
            self.gate = nn.Linear(D, A, bias=False)
        else:
            self.time_first = vector(*decays)
        eps = config.layer_norm_epsilon * config.head_size_divisor**2
        self.ln_x = GroupNorm(A // N, A, eps)

    def initialize(self) -> None:
        """Set initial decays (slow to fast over the channels) and token shifts (by depth)."""
        decays, q = self.time_decay, ramp(self.time_mix_key.numel()).view(1, 1, -1)
        position = ramp(decays.numel())
        decay = -6 + 5 * position ** (0.7 + 1.3 * self.depth)
        bonus = self.depth * (1 - position) + 0.2 * zigzag(decays.numel())
        fill(decays, decay.view(decays.shape))
        fill(self.time_faaaa if self.gated else self.time_first, bonus.view(decays.shape))
        fill(self.time_mix_key, q**self.rest)
        fill(self.time_mix_value, q**self.rest + 0.3 * self.depth)
        fill(self.time_mix_receptance, q ** (0.5 * self.rest))
        if self.gated:
            fill(self.time_mix_gate, q ** (0.5 * self.rest))

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, padding: Padding | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states."""
        heads = (*x.shape[:2], *self.heads)
        p, last = token_shift(x, last, padding)
        r = linear(self.receptance, torch.lerp(p, x, widen(self.time_mix_receptance))).view(heads)
        k = linear(self.key, torch.lerp(p, x, widen(self.time_mix_key))).view(heads)
        v = linear(self.value, torch.lerp(p, x, widen(self.time_mix_value))).view(heads)
        log_decay = -torch.exp(widen(self.time_decay).view(self.heads[0], -1))
        bonus = self.bonus().view(self.heads[0], -1)
        if padding is None:
            y, state = run(wkv5, r, log_decay, k, v, bonus, state)
        else:  # with padding the decay depends on the token, so the recurrence of RWKV-6 is used
            real = padding.real[..., None]
            y, state = run(wkv6, r, (log_decay * real).expand_as(k), k * real, v, bonus, state)
        y = self.ln_x(y)
        if self.gated:
            y = y * F.silu(linear(self.gate, torch.lerp(p, x, widen(self.time_mix_gate))))
        return linear(self.output, y), last, state

    def bonus(self) -> Tensor:
        """Return the bonus u, which has the shape of the decays."""
        return widen(self.time_faaaa) if self.gated else torch.exp(widen(self.time_first))


class Rwkv5ChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU and a gate."""

    def __init__(self, config: Rwkv5Config, layer: int) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.rest = 1 - layer / config.num_hidden_layers
        self.time_mix_key = vector(1, 1, D)
        self.time_mix_receptance = vector(1, 1, D)
        self.key = nn.Linear(D, F, bias=False)
        self.receptance = nn.Linear(D, D, bias=False)
        self.value = nn.Linear(F, D, bias=False)

    def initialize(self) -> None:
        """Set initial token shifts, which depend on the depth of the layer."""
        q = ramp(self.time_mix_key.numel()).view(1, 1, -1)
        fill(self.time_mix_key, q**self.rest)
        fill(self.time_mix_receptance, q**self.rest)

    def forward(self, x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        p, last = token_shift(x, last, padding)
        r = torch.sigmoid(
            linear(self.receptance, torch.lerp(p, x, widen(self.time_mix_receptance)))
        )
        k = linear(self.key, torch.lerp(p, x, widen(self.time_mix_key)))
        return r * linear(self.value, torch.relu(k).square()), last


class Rwkv5Block(HubBlock):
    """A layer of RWKV-5."""

    def __init__(self, config: Rwkv5Config, layer: int) -> None:
        mixes = Rwkv5TimeMix(config, layer), Rwkv5ChannelMix(config, layer)
        super().__init__(config, layer, *mixes)


class Rwkv5PreTrainedModel(PretrainedRwkv):
    """The base class of RWKV-5 with and without head."""

    config_class = Rwkv5Config
    base_model_prefix = "rwkv"
    _no_split_modules = ["Rwkv5Block"]
    _keep_in_fp32_modules_strict = [
        "time_decay",
        "time_faaaa",
        "time_first",
        "time_mix_key",
        "time_mix_value",
        "time_mix_receptance",
        "time_mix_gate",
        "ln_x",
        "pre_ln",
        "ln1",
        "ln2",
        "ln_out",
    ]


class Rwkv5Model(Backbone, Rwkv5PreTrainedModel):
    """An RWKV-5 network without its head."""

    def __init__(self, config: Rwkv5Config) -> None:
        norm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        super().__init__(config, lambda layer: Rwkv5Block(config, layer), norm)

    def new_wkv(self, X: Tensor) -> Tensor:
        """Return the initial state (B, H, N, N), axes (value, key)."""
        A, N = self.config.attention_hidden_size, self.config.head_size
        return X.new_zeros(X.shape[0], A // N, N, N)


class Rwkv5ForCausalLM(CausalLM, Rwkv5PreTrainedModel):
    """An RWKV-5 language model with head."""

    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init__(self, config: Rwkv5Config) -> None:
        super().__init__(config, Rwkv5Model(config))
