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
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from wkv.hf.cache import CACHE_NAMES
from wkv.hf.parts import (
    GroupNorm,
    LayerNorm,
    Linear,
    Padding,
    check,
    fill,
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


def default_rank(width: int, power: float, factor: float) -> int:
    """Return the default rank of a low-rank map, a multiple of 32."""
    return max(32, round(factor * width**power / 32) * 32)


class RWKV7Config(PretrainedConfig):
    """The configuration of an RWKV-7 model, with the field names of fla.

    Args:
        vocab_size, hidden_size, num_hidden_layers: V, D, L.
        head_dim: N.
        num_heads: H; by default D / N.
        intermediate_size: F, width of the channel mix; by default hidden_ratio * D.
        hidden_ratio: F / D if intermediate_size is not given.
        decay_low_rank_dim, a_low_rank_dim, v_low_rank_dim, gate_low_rank_dim: ranks of w_lora,
            a_lora, v_lora and g_lora; by default those of official models of this width.
        value_dim: width of the values of each layer, which must be H * N for every layer.
        norm_eps: eps of the layer norms; by default that of the norm per head is norm_eps * N.
        group_norm_eps: eps of the norm per head, if it is not norm_eps * N.
        norm_first, norm_bias, hidden_act, attn: only the values of an RWKV-7 are accepted.
        attn_mode, fuse_norm, fuse_cross_entropy: fla's choice of kernels; stored but not used.
        max_position_embeddings: the maximum length that other programs assume; it limits nothing
            here.
        initializer_range: standard deviation of new matrices.
    """

    model_type = "rwkv7"
    keys_to_ignore_at_inference = list(CACHE_NAMES)

    def __init__(
        self,
        vocab_size: int = 65536,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        head_dim: int = 64,
        num_heads: int | None = None,
        intermediate_size: int | None = None,
        hidden_ratio: float | None = 4.0,
        decay_low_rank_dim: int | None = None,
        a_low_rank_dim: int | None = None,
        v_low_rank_dim: int | None = None,
        gate_low_rank_dim: int | None = None,
        value_dim: int | list[int] | None = None,
        norm_eps: float = 1e-5,
        group_norm_eps: float | None = None,
        norm_first: bool = True,
        norm_bias: bool = True,
        hidden_act: str = "sqrelu",
        attn: dict[str, Any] | None = None,
        attn_mode: str = "chunk",
        fuse_norm: bool = False,
        fuse_cross_entropy: bool = False,
        max_position_embeddings: int = 1048576,
        initializer_range: float = 0.02,
        use_cache: bool = True,
        bos_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 0,
        tie_word_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        D = hidden_size
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.head_dim = head_dim
        self.num_heads = num_heads or hidden_size // head_dim
        self.intermediate_size = intermediate_size or int((hidden_ratio or 4.0) * D)
        self.hidden_ratio = hidden_ratio
        self.decay_low_rank_dim = decay_low_rank_dim or default_rank(D, 0.5, 1.8)
        self.a_low_rank_dim = a_low_rank_dim or default_rank(D, 0.5, 1.8)
        self.v_low_rank_dim = v_low_rank_dim or default_rank(D, 0.5, 1.3)
        self.gate_low_rank_dim = gate_low_rank_dim or default_rank(D, 0.8, 0.6)
        width = self.num_heads * head_dim
        if isinstance(value_dim, int):
            value_dim = [value_dim] * num_hidden_layers
        self.value_dim = value_dim or [width] * num_hidden_layers
        self.norm_eps = norm_eps
        self.group_norm_eps = group_norm_eps
        self.norm_first = norm_first
        self.norm_bias = norm_bias
        self.hidden_act = hidden_act
        self.attn = attn
        self.attn_mode = attn_mode
        self.fuse_norm = fuse_norm
        self.fuse_cross_entropy = fuse_cross_entropy
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.use_cache = use_cache
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
        check(set(self.value_dim) == {width}, f"value_dim {self.value_dim}", f"{width} throughout")
        check(norm_first and norm_bias, "norm_first or norm_bias false", "both true")
        check(hidden_act == "sqrelu", f"hidden_act {hidden_act!r}", "'sqrelu'")
        check(attn is None, "attention in some layers (attn)", "none")


class LowRank(nn.Module):
    """A product of two low-rank matrices: outer(act(inner(x))) + bias."""

    def __init__(self, n_in: int, rank: int, n_out: int, act: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.lora = nn.Sequential(Linear(n_in, rank), act, Linear(rank, n_out, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        return self.lora(x)

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
        self.r_proj = Linear(D, A)
        self.k_proj = Linear(D, A)
        self.v_proj = Linear(D, A)
        self.o_proj = Linear(A, D)
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
        d = p - x
        r = self.r_proj(torch.addcmul(x, d, widen(self.x_r))).view(heads)
        k = self.k_proj(torch.addcmul(x, d, widen(self.x_k)))
        x_v = torch.addcmul(x, d, widen(self.x_v))
        v = self.v_proj(x_v)
        log_decay = -DECAY_SCALE * torch.sigmoid(self.w_lora(torch.addcmul(x, d, widen(self.x_w))))
        a = torch.sigmoid(self.a_lora(torch.addcmul(x, d, widen(self.x_a))))
        g = self.g_lora(torch.addcmul(x, d, widen(self.x_g)))

        kappa = (k * self.k_k).view(heads)
        kappa = F.normalize(kappa, dim=-1, eps=KAPPA_NORM_FLOOR)
        k = (k * (1 + (a - 1) * self.k_a)).view(heads)
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
        return self.o_proj((self.g_norm(y) + bonus.flatten(2)) * g), last, state, v_first


class RWKV7ChannelMix(nn.Module):
    """The feed-forward part of a layer, with a squared ReLU."""

    def __init__(self, config: RWKV7Config, layer: int) -> None:
        super().__init__()
        D, F = config.hidden_size, config.intermediate_size
        self.rest = 1 - layer / config.num_hidden_layers
        self.x_k = vector(D)
        self.key = Linear(D, F)
        self.value = Linear(F, D)

    def initialize(self) -> None:
        """Set the initial token shift, which depends on the depth of the layer."""
        fill(self.x_k, 1 - ramp(len(self.x_k)) ** (self.rest**4))

    def forward(self, x: Tensor, last: Tensor, padding: Padding | None) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        p, last = token_shift(x, last, padding)
        k = self.key(torch.addcmul(x, p - x, widen(self.x_k)))
        return self.value(torch.relu(k).square()), last


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
    _keep_in_fp32_modules_strict = ["x_[rwkvag]$", "k_k", "k_a", "r_k", "bias", "norm"]


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
        return X.new_zeros(len(X), H, N, N)


class RWKV7ForCausalLM(CausalLM, RWKV7PreTrainedModel):
    """An RWKV-7 language model with head."""

    head_name = "lm_head"
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: RWKV7Config) -> None:
        super().__init__(config, RWKV7Model(config))
