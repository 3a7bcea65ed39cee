"""The RWKV-7a "DeepEmbed" network: RWKV-7 with a channel mix that depends on the token id.

Each layer has a table of 32 x 32 matrices, one per token of the vocabulary. The matrix of the
token maps the channel mix's input to factors for its hidden units:

    E = s_emb[token] + (LN(emb[token]; ln0) s_emb_x^T)          as a 32 x 32 matrix
    h = relu(K x_k)^2 ((x s1) E s2 + s0)                        x: the unmixed input
    out = V h

Source: the `rwkv` package with RWKV_DE_VERSION=1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from wkv.models import parts, rwkv7
from wkv.models.parts import Linear, Recurrence, Shapes, token_shift, vector
from wkv.models.state import LayerState
from wkv.models.strategy.products import matmul
from wkv.ops.wkv7 import wkv7


@dataclass(frozen=True, kw_only=True)
class Config(rwkv7.Config):
    """The sizes of an RWKV-7a model; the matrix of a token is deep_rank x deep_rank."""

    deep_rank: int


def config_from_shapes(shapes: Shapes) -> Config:
    """Derive the sizes of a model from the shapes of its tensors."""
    base = rwkv7.config_from_shapes(shapes)
    same = {field.name: getattr(base, field.name) for field in fields(base)}
    return Config(**{**same, "generation": "7a"}, deep_rank=shapes["blocks.0.ffn.s1"][1])


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a model."""
    D, F, R = config.n_embd, config.dim_ffn, config.deep_rank
    ffn: dict[str, tuple[int, ...]] = {
        "ffn.x_k": (1, 1, D),
        "ffn.s0": (1, 1, F),
        "ffn.s1": (D, R),
        "ffn.s2": (R, F),
        "ffn.key.weight": (F, D),
        "ffn.value.weight": (D, F),
        "ffn.s_emb.weight": (config.vocab_size, R * R),
        "ffn.s_emb_x.weight": (R * R, D),
    }
    return parts.network_shapes(config, lambda layer: rwkv7.time_mix_shapes(config, layer) | ffn)


@dataclass(frozen=True, slots=True)
class Token:
    """The tokens of a call. Loading places blocks on devices, and does not move this object.

    Attributes:
        ids: (B, T) int64, on the device of the tables.
        embedded: their embedding after ln0, (B, T, D) float32, on the device of a block.
    """

    ids: Tensor
    embedded: Tensor


class ChannelMix(nn.Module):
    """The feed-forward part of a layer, whose hidden units are scaled by the token's matrix."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        D, F, R = config.n_embd, config.dim_ffn, config.deep_rank
        self.rank = R
        self.x_k = vector(1, 1, D)
        self.key = Linear(D, F)
        self.value = Linear(F, D)
        self.s_emb = parts.table(config.vocab_size, R * R)
        self.s_emb_x = Linear(D, R * R)
        self.s0 = vector(1, 1, F)
        self.s1, self.s2 = vector(D, R), vector(R, F)

    def forward(
        self, x: Tensor, last: Tensor, token: Token, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Map (B, T, D) to (B, T, D), and return it with the new shift state."""
        shifted, last = token_shift(x, last, lengths)
        h = torch.relu(self.key(torch.lerp(x, shifted, self.x_k))).square()
        E = parts.look_up(token.ids, self.s_emb, like=x) + self.s_emb_x(token.embedded.to(x.device))
        E = E.unflatten(-1, (self.rank, self.rank))
        scale = (matmul(x, self.s1).unsqueeze(-2) @ E).squeeze(-2)
        return parts.from_hidden(h * (matmul(scale, self.s2) + self.s0), self.value), last


class Block(nn.Module):
    """A layer of RWKV-7's time mix and this channel mix, each added to the residual stream."""

    def __init__(self, config: Config, layer: int, wkv: Recurrence) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(config.n_embd)
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.att = rwkv7.TimeMix(config, layer, wkv)
        self.ffn = ChannelMix(config)

    def forward(
        self,
        X: Tensor,
        layer: LayerState,
        v_first: Tensor | None,
        token: Token,
        lengths: Tensor | None,
    ) -> tuple[Tensor, LayerState, Tensor]:
        """Update the residual stream (B, T, D) and the layer's state; return both and v_first."""
        out, att_shift, wkv, v_first = self.att(
            self.ln1(X), layer.att_shift, layer.wkv, v_first, lengths
        )
        X = X + out
        out, ffn_shift = self.ffn(self.ln2(X), layer.ffn_shift, token, lengths)
        return X + out, LayerState(att_shift, wkv, ffn_shift), v_first


class RWKV7a(parts.Skeleton):
    """An RWKV-7a network; `wkv` is the implementation of the recurrence."""

    def __init__(self, config: Config, wkv: Recurrence = wkv7) -> None:
        super().__init__(config, lambda layer: Block(config, layer, wkv))

    def forward(
        self, ids: Tensor, layers: Sequence[LayerState], lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Compute `Skeleton.forward`, and pass the ids and the value of layer 0 to each layer."""
        ids = ids.to(self.emb.weight.device)
        embedded = X = self.embed(ids)
        v_first = None
        new_layers = []
        for block, layer in zip(self.blocks, layers, strict=True):
            X, layer, v_first = block(X, layer, v_first, Token(ids, embedded), lengths)
            embedded, lengths = embedded.to(X.device), parts.follow(X, lengths)
            new_layers.append(layer)
        return X, tuple(new_layers)
