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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wkv.hf.config_checks import check
from wkv.hf.configuration_rwkv6 import Rwkv6Config
from wkv.hf.parts import (
    GroupNorm,
    LayerNorm,
    Padding,
    factor_product,
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
from wkv.ops.wkv6 import wkv6


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
        self.receptance = nn.Linear(D, A, bias=False)
        self.key = nn.Linear(D, A, bias=False)
        self.value = nn.Linear(D, A, bias=False)
        self.gate = nn.Linear(D, A, bias=False)
        self.output = nn.Linear(A, D, bias=False)
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
        r = linear(self.receptance, torch.addcmul(x, d, self.time_maa_r + m_r)).view(heads)
        k = linear(self.key, torch.addcmul(x, d, self.time_maa_k + m_k)).view(heads)
        v = linear(self.value, torch.addcmul(x, d, self.time_maa_v + m_v)).view(heads)
        g = F.silu(linear(self.gate, torch.addcmul(x, d, self.time_maa_g + m_g)))
        x_w = torch.addcmul(x, d, self.time_maa_w + m_w)
        low = torch.tanh(factor_product(x_w, self.time_decay_w1))
        raw_decay = self.time_decay + factor_product(low, self.time_decay_w2)
        log_decay = -torch.exp(raw_decay).view(heads)
        if padding is not None:  # padding neither decays the state nor writes to it
            real = padding.real[..., None]
            log_decay, k = log_decay * real, k * real
        y, state = run(wkv6, r, log_decay, k, v, widen(self.time_faaaa), state)
        return linear(self.output, self.ln_x(y) * g), last, state

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
        self.key = nn.Linear(D, F, bias=False)
        self.receptance = nn.Linear(D, D, bias=False)
        self.value = nn.Linear(F, D, bias=False)

    def initialize(self) -> None:
        """Set initial token shifts, which depend on the depth of the layer."""
        q = ramp(self.time_maa_k.numel()).view(1, 1, -1)
        fill(self.time_maa_k, 1 - q**self.rest)
        fill(self.time_maa_r, 1 - q**self.rest)

    def forward(self, x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        p, last = token_shift(x, last, padding)
        d = p - x
        r = torch.sigmoid(linear(self.receptance, torch.addcmul(x, d, widen(self.time_maa_r))))
        k = linear(self.key, torch.addcmul(x, d, widen(self.time_maa_k)))
        return r * linear(self.value, torch.relu(k).square()), last


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
        return X.new_zeros(X.shape[0], A // N, N, N)


class Rwkv6ForCausalLM(CausalLM, Rwkv6PreTrainedModel):
    """An RWKV-6 language model with head."""

    _tied_weights_keys = {"head.weight": "rwkv.embeddings.weight"}

    def __init__(self, config: Rwkv6Config) -> None:
        super().__init__(config, Rwkv6Model(config))
