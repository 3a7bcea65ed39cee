"""The parts that all generations share: sizes, products, token shift, norm per head, skeleton.

    e   = LN(emb[token]; ln0)
    X   = e
    for each layer:  X += TimeMix(LN(X; ln1));  X += ChannelMix(LN(X; ln2))
    logits = head(LN(X; ln_out))

Matrices are stored in the requested dtype, and only their products are computed in it. Vectors,
norms, the residual stream X and the state are float32. The only loss of a 16-bit model is therefore
the rounding of its weights and of the inputs of its products. (After `network.double()` everything
is float64, which tests use to distinguish errors from rounding.)

Source: shapes and names of the official checkpoints.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wkv.models.state import LayerState
from wkv.models.strategy.products import Product, at_least_float32, linear, matmul

GROUP_NORM_EPS = 64e-5
"""The eps of the norm per head: training uses 1e-5 for y / 8, which is 1e-5 * 8^2 for y."""

MIN_HIDDEN_SIZE = 1e-30
"""Lower limit of the size by which the hidden units of a token are divided in fp16."""

Shapes = Mapping[str, tuple[int, ...]]

Recurrence = Callable[..., tuple[Tensor, Tensor]]
"""A function with the arguments and results of one of `wkv.ops`, such as `wkv.ops.wkv7.wkv7`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes of a model, all of which follow from the shapes of its tensors.

    Attributes:
        generation: "4", "5.0", "5.1", "5.2", "6", "7" or "7a".
        n_layer, n_embd, vocab_size: L, D, V.
        dim_att, dim_ffn: widths A of the time mix and F of the channel mix.
        n_head, head_size: H and N = A / H; None in generation 4, which has no heads.
        group_norm_eps: eps of the norm per head.
    """

    generation: str
    n_layer: int
    n_embd: int
    vocab_size: int
    dim_att: int
    dim_ffn: int
    n_head: int | None = None
    head_size: int | None = None
    group_norm_eps: float = GROUP_NORM_EPS


def sizes(shapes: Shapes) -> dict[str, int]:
    """Return the sizes that follow from the tensor shapes in the same way for every generation."""
    vocab_size, n_embd = shapes["emb.weight"]
    blocks = {int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")}
    for number in range(len(blocks)):
        if number not in blocks:  # otherwise one stray name could create a million layers
            stray = next(name for name in shapes if name.startswith(f"blocks.{max(blocks)}."))
            raise KeyError(f"blocks.{number}.* (before {stray}, which may be a stray one)")
    return {
        "n_layer": len(blocks),
        "n_embd": n_embd,
        "vocab_size": vocab_size,
        "dim_att": shapes["blocks.0.att.key.weight"][0],
        "dim_ffn": shapes["blocks.0.ffn.key.weight"][0],
    }


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Check whether a tensor is a matrix or a lookup table, whose dtype the strategy selects.

    The few two-dimensional tensors that are applied elementwise are vectors in this sense.
    """
    elementwise = name.endswith(("r_k", "time_decay", "time_first", "time_faaaa", "time_state"))
    return not elementwise and sum(size > 1 for size in shape) > 1


def network_shapes(
    config: Config, block_shapes: Callable[[int], dict[str, tuple[int, ...]]]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a network, by its official name.

    Args:
        config: the sizes.
        block_shapes: returns the shapes of `att` and `ffn` in a layer.
    """
    D, V = config.n_embd, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"emb.weight": (V, D)}
    for layer in range(config.n_layer):
        norms = ("ln0", "ln1", "ln2") if layer == 0 else ("ln1", "ln2")
        block = {f"{norm}.{part}": (D,) for norm in norms for part in ("weight", "bias")}
        for name, shape in {**block, **block_shapes(layer)}.items():
            shapes[f"blocks.{layer}.{name}"] = shape
    return shapes | {"ln_out.weight": (D,), "ln_out.bias": (D,), "head.weight": (V, D)}


def vector(*shape: int) -> nn.Parameter:
    """Create a parameter without values, which loading or initialization sets later."""
    return nn.Parameter(torch.empty(*shape))


def low_rank(
    x: Tensor, down: Tensor, up: Tensor, activation: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Compute activation(x down) up; the result is float32 at least.

    The inner product is rounded to the dtype of `down`, and the activation to that of `up`.

    Args:
        x: (..., n_in) of any dtype.
        down, up: (n_in, rank) and (rank, n_out).
        activation: an elementwise function.
    """
    inner = (x.to(down.dtype) @ down).to(up.dtype)
    return matmul(inner if activation is None else activation(inner), up)


class Linear(nn.Linear):
    """A linear layer y = x weight^T without bias, computed in the dtype of the weight.

    The result is float32, or float64 if the weight is.

    Attributes:
        product: computes x weight^T; the function that loads weights may replace it.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)
        self.product: Product = linear

    @property
    def input_dtype(self) -> torch.dtype:
        """The dtype to which inputs are rounded."""
        return self.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) of any dtype to (..., n_out) float32."""
        dtype = self.weight.dtype
        return self.product(x.to(dtype), self.weight, at_least_float32(dtype))

    def in_weight_dtype(self, x: Tensor) -> Tensor:
        """Compute `forward`, but return the result in the dtype of the weight."""
        return self.product(x.to(self.weight.dtype), self.weight)


def squared_relu(x: Tensor, key: Linear, value: Linear) -> Tensor:
    """Compute value(relu(key(x))^2), (..., D) to (..., D) float32.

    In bf16 the hidden units stay in the dtype of the weights. They would be rounded to it before
    `value` anyway, so no bit changes and half as many bytes are moved.
    """
    hidden = key(x) if key.input_dtype == torch.float16 else key.in_weight_dtype(x)
    return from_hidden(torch.relu(hidden).square(), value)


def from_hidden(hidden: Tensor, value: Linear) -> Tensor:
    """Compute value(hidden) for hidden units (..., F) that may be too large for fp16.

    The largest number of fp16 is 65504, the square of only 256. So in fp16 the hidden units of each
    token are divided by the largest of them. All other dtypes have the range of float32.
    """
    if value.input_dtype != torch.float16:
        return value.forward(hidden)
    size: Tensor = torch.linalg.vector_norm(hidden, ord=torch.inf, dim=-1, keepdim=True)
    size = size.clamp(min=MIN_HIDDEN_SIZE)
    return value.forward(hidden / size) * size


def table(rows: int, width: int) -> nn.Embedding:
    """Create a lookup table without values.

    By default PyTorch would sample random values, for which it imports its compiler on the meta
    device. That takes 1.4 s.
    """
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


def look_up(ids: Tensor, table: nn.Embedding, *, like: Tensor) -> Tensor:
    """Return rows of a table in the dtype and on the device of `like`.

    The table may be on another device than the rest of the model.
    """
    rows: Tensor = table(ids.to(table.weight.device))
    return rows.to(like)


def mix(start: Tensor, end: Tensor, shares: Sequence[Tensor]) -> Tensor:
    """Interpolate from `start` to `end` by several shares at once.

    Args:
        start, end: (B, T, D).
        shares: n tensors that broadcast to (B, T, D); 0 is `start`, 1 is `end`.

    Returns:
        (n, B, T, D).
    """
    return torch.lerp(start, end, torch.stack(tuple(shares)))


def token_shift(x: Tensor, last: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the input of the previous token for each token, and the new shift state.

    Args:
        x: (B, T, D).
        last: (B, D), the input of the token before this call.
        lengths: (B,) int64, the number of real tokens in each row, or None if all are real.

    Returns:
        (B, T, D), and (B, D): each row's last real input, or `last` in a row that has none.
    """
    if x.shape[1] == 1 and lengths is None:
        return last[:, None], x[:, 0]
    joined = torch.cat([last[:, None], x], dim=1)
    if lengths is None:  # a copy, because a view in the state would keep all of x in memory
        return joined[:, :-1], x[:, -1].clone()
    return joined[:, :-1], joined[torch.arange(len(x), device=x.device), lengths]


def follow(X: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return the lengths on the device of X, so that only its first block has to copy them."""
    return None if lengths is None else lengths.to(X.device)


def real_tokens(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return (B, T, 1, 1) with 1 for real tokens and 0 for padding, or None without padding."""
    if lengths is None:
        return None
    positions = torch.arange(x.shape[1], device=x.device)
    return (positions < lengths[:, None])[:, :, None, None].to(x.dtype)


def group_norm(y: Tensor, norm: nn.GroupNorm, eps: float) -> Tensor:
    """Normalize each head's N values, then scale and shift per channel.

    Args:
        y: (B, T, H, N) float32.
        norm: its `weight` and `bias`, (A,), are used, but not its eps.
        eps: added to the population variance.

    Returns:
        (B, T, A) float32.
    """
    batch, tokens, heads, size = y.shape
    flat = y.reshape(batch * tokens, heads * size)
    return F.group_norm(flat, heads, norm.weight, norm.bias, eps).view(batch, tokens, -1)


class Block(nn.Module):
    """A layer of generations 4 to 6: time mix and channel mix, added to the residual stream."""

    def __init__(self, config: Config, layer: int, att: nn.Module, ffn: nn.Module) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(config.n_embd)
        self.ln1 = nn.LayerNorm(config.n_embd)
        self.ln2 = nn.LayerNorm(config.n_embd)
        self.att = att
        self.ffn = ffn

    def forward(
        self, X: Tensor, layer: LayerState, lengths: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        """Update the residual stream (B, T, D) and the state of the layer."""
        out, att_shift, wkv = self.att(self.ln1(X), layer.att_shift, layer.wkv, lengths)
        X = X + out
        out, ffn_shift = self.ffn(self.ln2(X), layer.ffn_shift, lengths)
        return X + out, LayerState(att_shift, wkv, ffn_shift)


class Skeleton(nn.Module):
    """A network of embedding, blocks, output norm and head, the same for every generation.

    A subclass passes a function that creates its blocks. It overrides `new_wkv` if its recurrent
    state has another shape or does not begin with zeros. A block has `ln1`, `att`, `ln2` and
    `ffn`; the first block also has `ln0`.
    """

    def __init__(self, config: Config, make_block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.emb = table(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(make_block(layer) for layer in range(config.n_layer))
        self.ln_out = nn.LayerNorm(config.n_embd)
        self.head = Linear(config.n_embd, config.vocab_size)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embedding after ln0 of ids (B, T): (B, T, D) float32 on block 0's device."""
        ln0 = self.get_submodule("blocks.0.ln0")
        normed: Tensor = ln0(look_up(ids, self.emb, like=self.get_parameter("blocks.0.ln1.weight")))
        return normed

    def forward(
        self, ids: Tensor, layers: Sequence[LayerState], lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Process T tokens in each of B rows.

        Args:
            ids: (B, T) int64.
            layers: the state, one LayerState per layer. It is not modified.
            lengths: (B,) int64, the number of real tokens at the beginning of each row, or None
                if all tokens are real.

        Returns:
            The residual stream (B, T, D) float32, which `logits` accepts, and the new state.
        """
        X = self.embed(ids)
        new_layers = []
        for block, layer in zip(self.blocks, layers, strict=True):
            X, layer = block(X, layer, lengths)
            lengths = follow(X, lengths)
            new_layers.append(layer)
        return X, tuple(new_layers)

    def logits(self, X: Tensor) -> Tensor:
        """Convert the residual stream (..., D) to logits (..., V) float32."""
        logits: Tensor = self.head(self.ln_out(X))
        return logits

    def new_layers(self, batch: int) -> tuple[LayerState, ...]:
        """Return the initial state for `batch` rows, with each layer on the device of its block."""

        def layer(index: int) -> LayerState:
            weight = self.get_parameter(f"blocks.{index}.ln1.weight")
            att_shift = weight.new_zeros(batch, self.config.n_embd)
            wkv = self.new_wkv(att_shift)
            return LayerState(att_shift, wkv, torch.zeros_like(att_shift))

        return tuple(layer(index) for index in range(self.config.n_layer))

    def new_wkv(self, shift: Tensor) -> Tensor:
        """Return the initial recurrent state of a layer: (B, H, N, N) zeros, axes (value, key).

        It has the dtype, the device and the batch of `shift`, (B, D).
        """
        heads, size = self.config.n_head, self.config.head_size
        assert heads is not None
        assert size is not None
        return shift.new_zeros(len(shift), heads, size, size)
