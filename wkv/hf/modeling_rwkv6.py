"""RWKV-6 "Finch" for transformers, with the tensor names of the hub's `Rwkv6ForCausalLM`.

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

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig

from wkv.hf.cache import CACHE_NAMES
from wkv.hf.parts import (
    GroupNorm,
    LayerNorm,
    Linear,
    Padding,
    check,
    factor_product,
    fill,
    ramp,
    run,
    token_shift,
    vector,
    widen,
    zigzag,
)
from wkv.hf.skeleton import Backbone, CausalLM, HubBlock, PretrainedRwkv
from wkv.ops.wkv6 import wkv6


class Rwkv6Config(PretrainedConfig):
    """The configuration of an RWKV-6 model.

    Args:
        vocab_size, hidden_size, num_hidden_layers: V, D, L.
        attention_hidden_size: A, width of the time mix; by default D.
        head_size: N, a divisor of A.
        head_size_divisor: number by which training divides the output of a head before its norm.
        intermediate_size: F, width of the channel mix; by default 3.5 D, rounded down to a
            multiple of 32.
        lora_rank_tokenshift: rank of W1 and W2; by default 64 if D >= 4096, otherwise 32.
        lora_rank_decay: rank of D1 and D2; by default 128 if D >= 4096, otherwise 64.
        context_length: the maximum length that other programs assume; it limits nothing here.
        layer_norm_epsilon: eps of the layer norms; that of the norm per head is
            layer_norm_epsilon * head_size_divisor^2.
        rescale_every: a field of older classes. It has no effect here, because the float32
            residual stream does not overflow.
        initializer_range: standard deviation of new matrices.
    """

    model_type = "rwkv6"
    keys_to_ignore_at_inference = list(CACHE_NAMES)
    attribute_map = {"max_position_embeddings": "context_length"}

    def __init__(
        self,
        vocab_size: int = 65536,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        attention_hidden_size: int | None = None,
        head_size: int = 64,
        head_size_divisor: float = 8,
        intermediate_size: int | None = None,
        lora_rank_tokenshift: int | None = None,
        lora_rank_decay: int | None = None,
        context_length: int = 1048576,
        layer_norm_epsilon: float = 1e-5,
        rescale_every: int = 0,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        bos_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 0,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        large = hidden_size >= 4096
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.attention_hidden_size = attention_hidden_size or hidden_size
        self.head_size = head_size
        self.head_size_divisor = head_size_divisor
        self.intermediate_size = intermediate_size or int(3.5 * hidden_size) // 32 * 32
        self.lora_rank_tokenshift = lora_rank_tokenshift or (64 if large else 32)
        self.lora_rank_decay = lora_rank_decay or (128 if large else 64)
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


class Rwkv6TimeMix(nn.Module):
    """The recurrent part of a layer."""

    def __init__(self, config: Rwkv6Config, layer: int) -> None:
        super().__init__()
        D, A, N = config.hidden_size, config.attention_hidden_size, config.head_size
        M, R = config.lora_rank_tokenshift, config.lora_rank_decay
        check(A % N == 0, f"heads of {N} in a width of {A}", "a head size that divides it")
        self.heads = (A // N, N)
        self.depth = layer / max(1, config.num_hidden_layers - 1)
        self.rest = 1 - layer / config.num_hidden_layers
        self.time_maa_x, self.time_maa_w = vector(1, 1, D), vector(1, 1, D)
        self.time_maa_k, self.time_maa_v = vector(1, 1, D), vector(1, 1, D)
        self.time_maa_r, self.time_maa_g = vector(1, 1, D), vector(1, 1, D)
        self.time_maa_w1, self.time_maa_w2 = vector(D, 5 * M), vector(5, M, D)
        self.time_decay = vector(1, 1, A)
        self.time_decay_w1, self.time_decay_w2 = vector(D, R), vector(R, A)
        self.time_faaaa = vector(*self.heads)
        self.receptance = Linear(D, A)
        self.key = Linear(D, A)
        self.value = Linear(D, A)
        self.gate = Linear(D, A)
        self.output = Linear(A, D)
        eps = config.layer_norm_epsilon * config.head_size_divisor**2
        self.ln_x = GroupNorm(A // N, A, eps)

    def initialize(self) -> None:
        """Set initial decays (slow to fast over the channels), token shifts and low-rank maps.

        Token shifts depend on the depth of the layer. The products of low-rank maps are zero.
        """
        q = ramp(self.time_maa_x.numel()).view(1, 1, -1)
        for name in "xwk":
            fill(getattr(self, f"time_maa_{name}"), 1 - q**self.rest)
        fill(self.time_maa_v, 1 - (q**self.rest + 0.3 * self.depth))
        for name in "rg":
            fill(getattr(self, f"time_maa_{name}"), 1 - q ** (0.5 * self.rest))
        position = ramp(self.time_decay.numel())
        decay = -6 + 5 * position ** (0.7 + 1.3 * self.depth)
        fill(self.time_decay, decay.view(1, 1, -1))
        bonus = self.depth * (1 - position) + 0.2 * zigzag(len(position))
        fill(self.time_faaaa, bonus.view(self.heads))
        for inner, outer in (
            (self.time_maa_w1, self.time_maa_w2),
            (self.time_decay_w1, self.time_decay_w2),
        ):
            fill(inner, 0.0)
            fill(outer, 0.02 * torch.rand(outer.shape) - 0.01)

    def forward(
        self, x: Tensor, last: Tensor, state: Tensor, padding: Padding | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states."""
        heads = (*x.shape[:2], *self.heads)
        p, last = token_shift(x, last, padding)
        d = p - x
        m_w, m_k, m_v, m_r, m_g = self.token_mixes(torch.addcmul(x, d, widen(self.time_maa_x)))
        r = self.receptance(torch.addcmul(x, d, self.time_maa_r + m_r)).view(heads)
        k = self.key(torch.addcmul(x, d, self.time_maa_k + m_k)).view(heads)
        v = self.value(torch.addcmul(x, d, self.time_maa_v + m_v)).view(heads)
        g = F.silu(self.gate(torch.addcmul(x, d, self.time_maa_g + m_g)))
        x_w = torch.addcmul(x, d, self.time_maa_w + m_w)
        low = torch.tanh(factor_product(x_w, self.time_decay_w1))
        raw_decay = self.time_decay + factor_product(low, self.time_decay_w2)
        log_decay = -torch.exp(raw_decay).view(heads)
        if padding is not None:  # padding neither decays the state nor writes to it
            real = padding.real[..., None]
            log_decay, k = log_decay * real, k * real
        y, state = run(wkv6, r, log_decay, k, v, widen(self.time_faaaa), state)
        return self.output(self.ln_x(y) * g), last, state

    def token_mixes(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the five m_j, each (B, T, D), in the order w, k, v, r, g."""
        batch, tokens, _ = x.shape
        z = torch.tanh(factor_product(x, self.time_maa_w1)).view(batch * tokens, 5, -1)
        m = factor_product(z.transpose(0, 1), self.time_maa_w2)  # (5, B T, D)
        return m.view(5, batch, tokens, -1).unbind(0)


class Rwkv6ChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU and a gate."""

    def __init__(self, config: Rwkv6Config, layer: int) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.rest = 1 - layer / config.num_hidden_layers
        self.time_maa_k = vector(1, 1, D)
        self.time_maa_r = vector(1, 1, D)
        self.key = Linear(D, F)
        self.receptance = Linear(D, D)
        self.value = Linear(F, D)

    def initialize(self) -> None:
        """Set initial token shifts, which depend on the depth of the layer."""
        q = ramp(self.time_maa_k.numel()).view(1, 1, -1)
        fill(self.time_maa_k, 1 - q**self.rest)
        fill(self.time_maa_r, 1 - q**self.rest)

    def forward(self, x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        p, last = token_shift(x, last, padding)
        d = p - x
        r = torch.sigmoid(self.receptance(torch.addcmul(x, d, widen(self.time_maa_r))))
        k = self.key(torch.addcmul(x, d, widen(self.time_maa_k)))
        return r * self.value(torch.relu(k).square()), last


class Rwkv6Block(HubBlock):
    """A layer of RWKV-6."""

    def __init__(self, config: Rwkv6Config, layer: int) -> None:
        mixes = Rwkv6TimeMix(config, layer), Rwkv6ChannelMix(config, layer)
        super().__init__(config, layer, *mixes)


class Rwkv6PreTrainedModel(PretrainedRwkv):
    """The base class of RWKV-6 with and without head."""

    config_class = Rwkv6Config
    base_model_prefix = "rwkv"
    _no_split_modules = ["Rwkv6Block"]
    _keep_in_fp32_modules_strict = [
        "time_decay$",  # not the factors time_decay_w1 and w2
        "time_faaaa",
        "time_maa_[xwkvrg]$",
        "ln_x",
        "pre_ln",
        "ln1",
        "ln2",
        "ln_out",
    ]


class Rwkv6Model(Backbone, Rwkv6PreTrainedModel):
    """An RWKV-6 network without its head."""

    def __init__(self, config: Rwkv6Config) -> None:
        norm = LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        super().__init__(config, lambda layer: Rwkv6Block(config, layer), norm)

    def new_wkv(self, X: Tensor) -> Tensor:
        """Return the initial state (B, H, N, N), axes (value, key)."""
        A, N = self.config.attention_hidden_size, self.config.head_size
        return X.new_zeros(len(X), A // N, N, N)


class Rwkv6ForCausalLM(CausalLM, Rwkv6PreTrainedModel):
    """An RWKV-6 language model with head."""

    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init__(self, config: Rwkv6Config) -> None:
        super().__init__(config, Rwkv6Model(config))
