"""RWKV-4 "Dove" for transformers, compatible with the library's own `RwkvForCausalLM`.

Tensor names and config fields are the same.

Time mix, with x the token's input, p the previous token's and mix(m) = x m + p (1 - m):

    r = sigmoid(R mix(m_r)) ;  k = K mix(m_k) ;  v = V mix(m_v)
    wkv = sum_i e^((t-1-i) W + k_i) v_i / sum_i e^(...)      W = -e^time_decay, bonus time_first
    out = O (r wkv)

Channel mix: out = sigmoid(R mix(m_r)) V relu(K mix(m_k))^2.

Source: paper "RWKV: Reinventing RNNs for the Transformer Era", arXiv 2305.13048.
"""

import math

import torch
from torch import Tensor, nn

from wkv.hf.configuration_rwkv4 import RwkvConfig
from wkv.hf.parts import (
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
from wkv.ops.wkv4 import MINUS_INFINITY, wkv4


class RwkvTimeMix(nn.Module):
    """The recurrent part of a layer."""

    def __init__(self, config: RwkvConfig, layer: int) -> None:
        super().__init__()
        D, A = config.hidden_size, config.attention_hidden_size
        self.depth = layer / max(1, config.num_hidden_layers - 1)
        self.rest = 1 - layer / config.num_hidden_layers
        self.time_decay, self.time_first = vector(A), vector(A)
        self.time_mix_key = vector(1, 1, D)
        self.time_mix_value = vector(1, 1, D)
        self.time_mix_receptance = vector(1, 1, D)
        self.key = nn.Linear(D, A, bias=False)
        self.value = nn.Linear(D, A, bias=False)
        self.receptance = nn.Linear(D, A, bias=False)
        self.output = nn.Linear(A, D, bias=False)

    def initialize(self) -> None:
        """Set initial decays (slow to fast over the channels) and token shifts (by depth)."""
        A, q = len(self.time_decay), ramp(self.time_mix_key.numel()).view(1, 1, -1)
        fill(self.time_decay, -5 + 8 * ramp(A) ** (0.7 + 1.3 * self.depth))
        fill(self.time_first, math.log(0.3) + zigzag(A))
        fill(self.time_mix_key, q**self.rest)
        fill(self.time_mix_value, q**self.rest + 0.3 * self.depth)
        fill(self.time_mix_receptance, q ** (0.5 * self.rest))

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, padding: Padding | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states."""
        p, last = token_shift(x, last, padding)
        r = torch.sigmoid(
            linear(self.receptance, torch.lerp(p, x, widen(self.time_mix_receptance)))
        )
        k = linear(self.key, torch.lerp(p, x, widen(self.time_mix_key)))
        v = linear(self.value, torch.lerp(p, x, widen(self.time_mix_value)))
        log_decay = -torch.exp(widen(self.time_decay))
        if padding is not None:  # padding neither decays the state nor contributes to it
            log_decay = log_decay * padding.real
            k = torch.where(padding.real > 0, k, MINUS_INFINITY)
        y, state = run(wkv4, log_decay, widen(self.time_first), k, v, state)
        return linear(self.output, r * y), last, state


class RwkvChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU and a gate."""

    def __init__(self, config: RwkvConfig, layer: int) -> None:
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


class RwkvBlock(HubBlock):
    """A layer of RWKV-4."""

    def __init__(self, config: RwkvConfig, layer: int) -> None:
        mixes = RwkvTimeMix(config, layer), RwkvChannelMix(config, layer)
        super().__init__(config, layer, *mixes)


class RwkvPreTrainedModel(PretrainedRwkv):
    """The base class of RWKV-4 with and without head."""

    config_class = RwkvConfig
    base_model_prefix = "rwkv"
    _no_split_modules = ["RwkvBlock"]
    _keep_in_fp32_modules_strict = [
        "time_decay",
        "time_first",
        "time_mix_key",
        "time_mix_value",
        "time_mix_receptance",
        "pre_ln",
        "ln1",
        "ln2",
        "ln_out",
    ]


class RwkvModel(Backbone, RwkvPreTrainedModel):
    """An RWKV-4 network without its head."""

    def __init__(self, config: RwkvConfig) -> None:
        norm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        super().__init__(config, lambda layer: RwkvBlock(config, layer), norm)

    def new_wkv(self, X: Tensor) -> Tensor:
        """Return the initial state (B, 3, A): numerator, denominator, largest exponent."""
        sums = X.new_zeros(X.shape[0], 3, self.config.attention_hidden_size)
        sums[:, 2] = MINUS_INFINITY
        return sums


class RwkvForCausalLM(CausalLM, RwkvPreTrainedModel):
    """An RWKV-4 language model with head."""

    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init__(self, config: RwkvConfig) -> None:
        super().__init__(config, RwkvModel(config))
