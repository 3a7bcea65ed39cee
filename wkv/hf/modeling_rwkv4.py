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
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from wkv.hf.cache import CACHE_NAMES
from wkv.hf.parts import (
    LayerNorm,
    Linear,
    Padding,
    fill,
    ramp,
    run,
    token_shift,
    vector,
    widen,
    zigzag,
)
from wkv.hf.skeleton import Backbone, CausalLM, HubBlock, PretrainedRwkv
from wkv.ops.wkv4 import MINUS_INFINITY, wkv4


class RwkvConfig(PretrainedConfig):
    """The configuration of an RWKV-4 model.

    Args:
        vocab_size, hidden_size, num_hidden_layers: V, D, L.
        attention_hidden_size: A, width of the time mix; by default D.
        intermediate_size: F, width of the channel mix; by default 4 D.
        context_length: context length of the training, in tokens; it limits nothing.
        layer_norm_epsilon: eps of all norms.
        rescale_every: a field of transformers' own class. It has no effect here, because the
            float32 residual stream does not overflow.
        initializer_range: standard deviation of new matrices.
    """

    model_type = "rwkv"
    keys_to_ignore_at_inference = list(CACHE_NAMES)
    attribute_map = {"max_position_embeddings": "context_length"}

    def __init__(
        self,
        vocab_size: int = 50277,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        attention_hidden_size: int | None = None,
        intermediate_size: int | None = None,
        context_length: int = 1024,
        layer_norm_epsilon: float = 1e-5,
        rescale_every: int = 0,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        bos_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 0,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.attention_hidden_size = attention_hidden_size or hidden_size
        self.intermediate_size = intermediate_size or 4 * hidden_size
        self.context_length = context_length
        self.layer_norm_epsilon = layer_norm_epsilon
        self.rescale_every = rescale_every
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )


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
        self.key = Linear(D, A)
        self.value = Linear(D, A)
        self.receptance = Linear(D, A)
        self.output = Linear(A, D)

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
        r = torch.sigmoid(self.receptance(torch.lerp(p, x, widen(self.time_mix_receptance))))
        k = self.key(torch.lerp(p, x, widen(self.time_mix_key)))
        v = self.value(torch.lerp(p, x, widen(self.time_mix_value)))
        log_decay = -torch.exp(widen(self.time_decay))
        if padding is not None:  # padding neither decays the state nor contributes to it
            log_decay = log_decay * padding.real
            k = torch.where(padding.real > 0, k, MINUS_INFINITY)
        y, state = run(wkv4, log_decay, widen(self.time_first), k, v, state)
        return self.output(r * y), last, state


class RwkvChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU and a gate."""

    def __init__(self, config: RwkvConfig, layer: int) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.rest = 1 - layer / config.num_hidden_layers
        self.time_mix_key = vector(1, 1, D)
        self.time_mix_receptance = vector(1, 1, D)
        self.key = Linear(D, F)
        self.receptance = Linear(D, D)
        self.value = Linear(F, D)

    def initialize(self) -> None:
        """Set initial token shifts, which depend on the depth of the layer."""
        q = ramp(self.time_mix_key.numel()).view(1, 1, -1)
        fill(self.time_mix_key, q**self.rest)
        fill(self.time_mix_receptance, q**self.rest)

    def forward(self, x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        p, last = token_shift(x, last, padding)
        r = torch.sigmoid(self.receptance(torch.lerp(p, x, widen(self.time_mix_receptance))))
        k = self.key(torch.lerp(p, x, widen(self.time_mix_key)))
        return r * self.value(torch.relu(k).square()), last


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
        sums = X.new_zeros(len(X), 3, self.config.attention_hidden_size)
        sums[:, 2] = MINUS_INFINITY
        return sums


class RwkvForCausalLM(CausalLM, RwkvPreTrainedModel):
    """An RWKV-4 language model with head."""

    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init__(self, config: RwkvConfig) -> None:
        super().__init__(config, RwkvModel(config))
