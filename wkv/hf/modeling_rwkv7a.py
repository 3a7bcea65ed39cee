"""RWKV-7a "DeepEmbed" for transformers: RWKV-7 with a channel mix that depends on the token id.

Each layer has a table of R x R matrices, one per token of the vocabulary. The matrix of the token
maps the channel mix's input to factors for its hidden units:

    E = s_emb[token] + (LN(emb[token]; pre_norm) s_emb_x^T)     as an R x R matrix
    h = relu(K x_k)^2 ((x s1) E s2 + s0)                        x: the unmixed input
    out = V h

Source: the `rwkv` package with RWKV_DE_VERSION=1.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from wkv.hf.configuration_rwkv7a import RWKV7aConfig
from wkv.hf.modeling_rwkv7 import RWKV7TimeMix
from wkv.hf.parts import (
    LayerNorm,
    Padding,
    factor_product,
    fill,
    linear,
    ramp,
    token_shift,
    vector,
    widen,
)
from wkv.hf.skeleton import Backbone, CausalLM, PretrainedRwkv


class RWKV7aChannelMix(nn.Module):
    """The feed-forward part of a layer, whose hidden units are scaled by the token's matrix."""

    def __init__(self, config: RWKV7aConfig, layer: int) -> None:
        super().__init__()
        D, F, R = config.hidden_size, config.intermediate_size, config.deep_embed_rank
        self.rank = R
        self.rest = 1 - layer / config.num_hidden_layers
        self.x_k = vector(D)
        self.key = nn.Linear(D, F, bias=False)
        self.value = nn.Linear(F, D, bias=False)
        self.s_emb = nn.Embedding(config.vocab_size, R * R)
        self.s_emb_x = nn.Linear(D, R * R, bias=False)
        self.s0, self.s1, self.s2 = vector(1, 1, F), vector(D, R), vector(R, F)

    def initialize(self) -> None:
        """Set initial values with which the layer equals RWKV-7: all scales are 1."""
        fill(self.x_k, 1 - ramp(len(self.x_k)) ** (self.rest**4))
        fill(self.s0, 1.0)
        fill(self.s1, 0.0)
        fill(self.s2, 0.02 * torch.rand(self.s2.shape) - 0.01)

    def forward(
        self, x: Tensor, last: Tensor, ids: Tensor, embedded: Tensor, padding: Padding | None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state.

        `ids` are (B, T), and `embedded` is their embedding after pre_norm, (B, T, D).
        """
        p, last = token_shift(x, last, padding)
        h = torch.relu(linear(self.key, torch.lerp(x, p, widen(self.x_k)))).square()
        E = widen(self.s_emb(ids)) + linear(self.s_emb_x, embedded)
        E = E.view(*E.shape[:-1], self.rank, self.rank)
        scale = (factor_product(x, self.s1).unsqueeze(-2) @ E.to(x.dtype)).squeeze(-2).to(x.dtype)
        return linear(self.value, h * (factor_product(scale, self.s2) + self.s0)), last


class RWKV7aBlock(GradientCheckpointingLayer):
    """A layer of RWKV-7's time mix and this channel mix, each added to the residual stream."""

    def __init__(self, config: RWKV7aConfig, layer: int) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.norm_eps
        if layer == 0:
            self.pre_norm = LayerNorm(D, eps)
        self.first = layer == 0
        self.attn_norm, self.ffn_norm = LayerNorm(D, eps), LayerNorm(D, eps)
        self.attn = RWKV7TimeMix(config, layer)
        self.ffn = RWKV7aChannelMix(config, layer)

    def forward(
        self,
        X: Tensor,
        padding: Padding | None,
        att_shift: Tensor,
        wkv: Tensor,
        ffn_shift: Tensor,
        ids: Tensor,
        embedded: Tensor | None = None,
        v_first: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Update the residual stream (B, T, D) and the layer's state.

        Returns both, followed by the tensors that are passed from block to block: ids, their
        embedding and v_first.
        """
        if self.first:
            embedded = X = self.pre_norm(X)
        out, att_shift, wkv, v_first = self.attn(
            self.attn_norm(X), att_shift, wkv, padding, v_first
        )
        X = X + out
        out, ffn_shift = self.ffn(self.ffn_norm(X), ffn_shift, ids, embedded, padding)
        return X + out, att_shift, wkv, ffn_shift, ids, embedded, v_first


class RWKV7aPreTrainedModel(PretrainedRwkv):
    """The base class of RWKV-7a with and without head."""

    config_class = RWKV7aConfig
    base_model_prefix = "model"
    _no_split_modules = ["RWKV7aBlock"]
    _keep_in_fp32_modules_strict = [
        "x_[rwkvag]",
        "k_k",
        "k_a",
        "r_k",
        "s0",
        "[wav]_lora.lora.2",
        "pre_norm",
        "attn_norm",
        "ffn_norm",
        "g_norm",
        "norm",
    ]

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Refuse to resize, because the tables of the layers would keep their size.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the vocabulary of an RWKV-7a model cannot change its size")


class RWKV7aModel(Backbone, RWKV7aPreTrainedModel):
    """An RWKV-7a network without its head."""

    blocks_name = "layers"
    norm_name = "norm"

    def __init__(self, config: RWKV7aConfig) -> None:
        norm = LayerNorm(config.hidden_size, config.norm_eps)
        super().__init__(config, lambda layer: RWKV7aBlock(config, layer), norm)

    def new_wkv(self, X: Tensor) -> Tensor:
        """Return the initial state (B, H, N, N), axes (value, key)."""
        H, N = self.config.num_heads, self.config.head_dim
        return X.new_zeros(X.shape[0], H, N, N)

    def shared_at_start(self, input_ids: Tensor | None) -> tuple[Tensor, ...]:
        """Return the ids, which every layer uses.

        Raises:
            ValueError: if only embeddings are given.
        """
        if input_ids is None:
            raise ValueError("RWKV-7a needs the ids, not only embeddings; give input_ids")
        return (input_ids,)


class RWKV7aForCausalLM(CausalLM, RWKV7aPreTrainedModel):
    """An RWKV-7a language model with head."""

    head_name = "lm_head"
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}

    def __init__(self, config: RWKV7aConfig) -> None:
        super().__init__(config, RWKV7aModel(config))
