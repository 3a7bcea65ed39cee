"""RWKV-7 "Goose" for transformers, with the tensor names and config of fla's `RWKV7ForCausalLM`.

Time mix, with x the token's input, p the previous token's, d = p - x and x_c = x + d x_c(param):

    r = R x_r ;  k = K x_k ;  v = V x_v
    log w = -e^(-1/2) sigmoid(w_lora(x_w))
    a = sigmoid(a_lora(x_a)) ;  g = g_lora(x_g)
    kappa = k k_k, normalized to length 1 per head ;  k <- k (1 + (a - 1) k_a)
    v <- v + (v_first - v) sigmoid(v_lora(x_v))             (layers > 0; v_first: layer 0's v)
    S <- S diag(w) - (S kappa) (kappa a)^T + v k^T ;  y = S r
    out = O ((norm(y) + (r . k r_k) v) g)

    between the two matrices: tanh in w_lora, sigmoid in g_lora, nothing in a_lora and v_lora
    all but g_lora have a bias

Channel mix: out = V relu(K x_k)^2.

Source: paper "RWKV-7 Goose with Expressive Dynamic State Evolution", arXiv 2503.14456.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from wkv.hf.configuration_rwkv7 import RWKV7Config
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
)
from wkv.hf.skeleton import Backbone, CausalLM, PretrainedRwkv
from wkv.ops.wkv7 import wkv7

DECAY_SCALE = math.exp(-0.5)
"""The scale of log w. The strongest decay of a step is exp(-DECAY_SCALE) = 0.545."""

KAPPA_NORM_FLOOR = 1e-12
"""Lower limit of the length by which kappa is divided."""

MIX_POWERS = {"r": 0.2, "g": 0.2, "w": 0.9, "a": 0.9, "k": 0.7, "v": 0.7}
"""Exponents of the initial token shifts."""


class LowRank(nn.Module):
    """A product of two low-rank matrices: outer(act(inner(x))) + bias."""

    def __init__(self, n_in: int, rank: int, n_out: int, act: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.lora = nn.Sequential(
            nn.Linear(n_in, rank, bias=False), act, nn.Linear(rank, n_out, bias=bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        inner, act, outer = self.lora
        return linear(outer, act(linear(inner, x)))

    def fill_bias(self, value: Tensor) -> None:
        """Set the initial value of the bias."""
        fill(self.lora.get_parameter("2.bias"), value)


class RWKV7TimeMix(nn.Module):
    """The recurrent part of a layer. Layer 0 has no v_lora, because it defines v_first."""

    def __init__(self, config: RWKV7Config, layer: int) -> None:
        super().__init__()
        D, H, N = config.hidden_size, config.num_heads, config.head_dim
        A = H * N
        self.heads = (H, N)
        self.depth = layer / max(1, config.num_hidden_layers - 1)
        self.rest = 1 - layer / config.num_hidden_layers
        self.x_r, self.x_w, self.x_k = vector(1, 1, D), vector(1, 1, D), vector(1, 1, D)
        self.x_v, self.x_a, self.x_g = vector(1, 1, D), vector(1, 1, D), vector(1, 1, D)
        self.k_k, self.k_a, self.r_k = vector(A), vector(A), vector(H, N)
        self.r_proj = nn.Linear(D, A, bias=False)
        self.k_proj = nn.Linear(D, A, bias=False)
        self.v_proj = nn.Linear(D, A, bias=False)
        self.o_proj = nn.Linear(A, D, bias=False)
        self.w_lora = LowRank(D, config.decay_low_rank_dim, A, nn.Tanh())
        self.a_lora = LowRank(D, config.a_low_rank_dim, A, nn.Identity())
        if layer > 0:
            self.v_lora = LowRank(D, config.v_low_rank_dim, A, nn.Identity())
        self.g_lora = LowRank(D, config.gate_low_rank_dim, A, nn.Sigmoid(), bias=False)
        self.g_norm = GroupNorm(H, A, config.group_norm_eps or config.norm_eps * N)

    def initialize(self) -> None:
        """Set initial decays (slow to fast over the channels), token shifts (by depth) etc."""
        q = ramp(self.x_r.numel()).view(1, 1, -1)
        for name, power in MIX_POWERS.items():
            fill(getattr(self, f"x_{name}"), 1 - q ** (power * self.rest))
        position = ramp(self.k_k.numel())
        in_head = (2 * ramp(self.heads[1]) - 1).repeat(self.heads[0])
        bend = in_head * in_head.abs()
        decay = -5.5 + 6 * position ** (1 + self.depth**0.3) + 2.5 * bend
        self.w_lora.fill_bias(decay)
        self.a_lora.fill_bias(-0.19 + 0.3 * bend + 0.4 * (position - 0.5))
        if hasattr(self, "v_lora"):
            self.v_lora.fill_bias(0.73 - 0.4 * (position - 0.5))
        fill(self.k_k, 0.71 - 0.1 * (position - 0.5))
        fill(self.k_a, 1.02)
        fill(self.r_k, -0.04)

    def forward(
        self,
        x: Tensor,
        last: Tensor,
        state: Tensor,
        padding: Padding | None,
        v_first: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift and wkv states and v_first.

        `v_first` is None for layer 0, which computes it.
        """
        heads = (*x.shape[:2], *self.heads)
        p, last = token_shift(x, last, padding)
        r = linear(self.r_proj, torch.lerp(x, p, widen(self.x_r))).view(heads)
        k = linear(self.k_proj, torch.lerp(x, p, widen(self.x_k)))
        x_v = torch.lerp(x, p, widen(self.x_v))
        v = linear(self.v_proj, x_v)
        log_decay = -DECAY_SCALE * torch.sigmoid(self.w_lora(torch.lerp(x, p, widen(self.x_w))))
        a = torch.sigmoid(self.a_lora(torch.lerp(x, p, widen(self.x_a))))
        g = self.g_lora(torch.lerp(x, p, widen(self.x_g)))

        kappa = (k * self.k_k).view(heads)
        kappa = F.normalize(kappa, dim=-1, eps=KAPPA_NORM_FLOOR)
        k = torch.lerp(k, k * a, widen(self.k_a)).view(heads)
        if v_first is None:
            v_first = v
        else:
            v = torch.lerp(v, v_first, torch.sigmoid(self.v_lora(x_v)))
        v = v.view(heads)

        log_decay = log_decay.view(heads)
        removed, written = kappa * a.view(heads), k
        if padding is not None:  # padding neither decays the state, removes from it nor writes
            real = padding.real[..., None]
            log_decay, removed, written = log_decay * real, removed * real, k * real
        y, state = run(wkv7, r, log_decay, written, v, -kappa, removed, state)

        bonus = (r * k * widen(self.r_k)).sum(-1, keepdim=True) * v
        return linear(self.o_proj, (self.g_norm(y) + bonus.flatten(2)) * g), last, state, v_first


class RWKV7ChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU."""

    def __init__(self, config: RWKV7Config, layer: int) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.rest = 1 - layer / config.num_hidden_layers
        self.x_k = vector(D)
        self.key = nn.Linear(D, F, bias=False)
        self.value = nn.Linear(F, D, bias=False)

    def initialize(self) -> None:
        """Set the initial token shift, which depends on the depth of the layer."""
        fill(self.x_k, 1 - ramp(len(self.x_k)) ** (self.rest**4))

    def forward(self, x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        p, last = token_shift(x, last, padding)
        k = linear(self.key, torch.lerp(x, p, widen(self.x_k)))
        return linear(self.value, torch.relu(k).square()), last


class RWKV7Block(GradientCheckpointingLayer):
    """A layer of time mix and channel mix, each of which is added to the residual stream."""

    def __init__(self, config: RWKV7Config, layer: int) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.norm_eps
        if layer == 0:
            self.pre_norm = LayerNorm(D, eps)
        self.first = layer == 0
        self.attn_norm, self.ffn_norm = LayerNorm(D, eps), LayerNorm(D, eps)
        self.attn = RWKV7TimeMix(config, layer)
        self.ffn = RWKV7ChannelMix(config, layer)

    def forward(
        self,
        X: Tensor,
        padding: Padding | None,
        att_shift: Tensor,
        wkv: Tensor,
        ffn_shift: Tensor,
        v_first: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Update the residual stream (B, T, D) and the layer's state; return both and v_first."""
        if self.first:
            X = self.pre_norm(X)
        out, att_shift, wkv, v_first = self.attn(
            self.attn_norm(X), att_shift, wkv, padding, v_first
        )
        X = X + out
        out, ffn_shift = self.ffn(self.ffn_norm(X), ffn_shift, padding)
        return X + out, att_shift, wkv, ffn_shift, v_first


class RWKV7PreTrainedModel(PretrainedRwkv):
    """The base class of RWKV-7 with and without head."""

    config_class = RWKV7Config
    base_model_prefix = "model"
    _no_split_modules = ["RWKV7Block"]
    # A matrix with a bias has the dtype of its bias, in which torch computes the sum.
    _keep_in_fp32_modules_strict = [
        "x_[rwkvag]",
        "k_k",
        "k_a",
        "r_k",
        "[wav]_lora.lora.2",
        "pre_norm",
        "attn_norm",
        "ffn_norm",
        "g_norm",
        "norm",
    ]


class RWKV7Model(Backbone, RWKV7PreTrainedModel):
    """An RWKV-7 network without its head."""

    blocks_name = "layers"
    norm_name = "norm"

    def __init__(self, config: RWKV7Config) -> None:
        norm = LayerNorm(config.hidden_size, config.norm_eps)
        super().__init__(config, lambda layer: RWKV7Block(config, layer), norm)

    def new_wkv(self, X: Tensor) -> Tensor:
        """Return the initial state (B, H, N, N), axes (value, key)."""
        H, N = self.config.num_heads, self.config.head_dim
        return X.new_zeros(X.shape[0], H, N, N)


class RWKV7ForCausalLM(CausalLM, RWKV7PreTrainedModel):
    """An RWKV-7 language model with head."""

    head_name = "lm_head"
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: RWKV7Config) -> None:
        super().__init__(config, RWKV7Model(config))
