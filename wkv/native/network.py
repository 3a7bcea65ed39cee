"""A network that runs on the native engine, with the interface of the networks of `wkv.models`."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from wkv.adapters.rows import RowAdapters
from wkv.checkpoint.weights import Weights
from wkv.models.parts import Config
from wkv.models.state import LayerState
from wkv.native import library, rwkv4, rwkv5, rwkv6, rwkv7
from wkv.native.compiled_plan import CompiledPlan
from wkv.native.layers import Parts, StackedLayers, allocate, allocate_kept, readable
from wkv.native.plan import Plan
from wkv.native.rewind import Rewind
from wkv.native.state_memory import StateMemory
from wkv.ops.torch_settings import unlimited_threads
from wkv.ops.wkv4 import MINUS_INFINITY

LAYERS: dict[str, Callable[..., None]] = {
    "4": rwkv4.add_layer,
    "5.0": rwkv5.add_layer,
    "5.1": rwkv5.add_layer,
    "5.2": rwkv5.add_layer,
    "6": rwkv6.add_layer,
    "7": rwkv7.add_layer,
}
"""The function of each generation that adds a layer to a plan; 7a runs on PyTorch."""

MAX_HEAD_SIZE, MAX_ROW_SIZE = 256, 2**16
"""Maximum size of a head and of a row of activations."""


def unsupported_reason(config: Config) -> str | None:
    """Return why the engine cannot run a model, or None if it can."""
    if config.generation not in LAYERS:
        return f"RWKV-{config.generation} runs on PyTorch"
    size = config.head_size
    if size is not None and (size % 4 != 0 or size > MAX_HEAD_SIZE):
        return f"heads of {size} channels are not supported"
    ranks = [value for name, value in vars(config).items() if name.endswith("_rank")]
    if max(4 * config.n_embd, config.dim_ffn, config.dim_att, *ranks) > MAX_ROW_SIZE:
        return f"rows of more than {MAX_ROW_SIZE} numbers are not supported"
    return library.missing_reason()


class NativeNetwork:
    """A model that runs as a compiled plan.

    Attributes:
        engine: the name of this engine, "native".
        config: generation and sizes.
        weight_bytes: bytes of weights that one token reads if no zeros are skipped.
        kernels, threads: the kernels and number of threads in use.
    """

    engine = "native"

    def __init__(
        self,
        config: Config,
        weights: Weights,
        *,
        folded: bool = False,
        row_adapters: RowAdapters | None = None,
        threads: int | None = None,
        kernels: str | None = None,
    ) -> None:
        """Prepare a model.

        With `folded`, the embedding already contains the effect of ln0. Each row of a call uses
        the adapter that was chosen with `row_adapters`.
        """
        self.config, self._weights = config, weights
        self.embedding, self._embedding_dtype = weights.table("emb")
        self._row_adapters = row_adapters
        plan = Plan(config.n_embd, config.vocab_size)
        if row_adapters is not None:
            plan.adapters = row_adapters.pairs
        for layer in range(config.n_layer):
            block = weights.of(f"blocks.{layer}.")
            plan.sharing = block.format_name
            if layer == 0 and not folded:
                plan.norm(plan.X, plan.X, *block.norm("ln0"))
            LAYERS[config.generation](plan, block, config, layer)
        plan.begin_head()
        normed = plan.norm(plan.X, plan.buffer("x", config.n_embd), *weights.norm("ln_out"))
        plan.product(plan.activate(normed), weights.matrix("head"), plan.logits)
        self.weight_bytes = weights.n_bytes
        self.kernels = kernels or library.kernels()[0]
        self.threads = threads or unlimited_threads()
        self._plan = CompiledPlan(plan, self.kernels, self.threads)
        self._skip_zeros = True
        self._memory = StateMemory()

    @property
    def skip_zeros(self) -> bool:
        """Whether weights of zero inputs are skipped if there is a single row."""
        return self._skip_zeros

    @skip_zeros.setter
    def skip_zeros(self, skip: bool) -> None:
        self._plan.skip_zeros(skip)
        self._skip_zeros = skip

    def __call__(
        self, ids: Tensor, layers: Sequence[LayerState], lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerState, ...]]:
        """Run the layers; see `wkv.models.parts.Skeleton.forward`."""
        batch, tokens = ids.shape
        if lengths is None:
            X = self._embed(ids.flatten())
            new_layers, _ = self._body(_all(tokens, batch), X, layers)
            return X.view(batch, tokens, -1), new_layers
        # Padding does not become rows.
        real = torch.arange(tokens) < lengths[:, None]
        if not bool(real.any()):
            return torch.zeros(batch, tokens, self.config.n_embd), tuple(layers)
        X = self._embed(ids[real])
        new_layers, _ = self._body(lengths.to(torch.int32), X, layers)
        padded = X.new_zeros(batch, tokens, X.shape[1])
        padded[real] = X
        return padded, new_layers

    def step(self, ids: Tensor, layers: Sequence[LayerState]) -> tuple[Tensor, StackedLayers]:
        """Read one token (B,) in each row; return the logits (B, V) and the new state."""
        X = self._embed(ids)
        new_layers, _ = self._body(_all(1, len(ids)), X, layers)
        return self._head(X), new_layers

    def rewindable(
        self, ids: Tensor, layers: Sequence[LayerState], lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[LayerState, ...], Rewind]:
        """Run the layers and keep what a rewind needs; see `wkv.inference.rewind`."""
        batch, tokens = ids.shape
        if lengths is None:
            counts, flat = _all(tokens, batch), ids.flatten()
        else:
            counts = lengths.to(torch.int32)
            flat = ids[torch.arange(tokens) < lengths[:, None]]
        X = self._embed(flat)
        new_layers, rewind = self._body(counts, X, layers, keep=True)
        assert rewind is not None
        return X, new_layers, rewind

    def logits(self, X: Tensor) -> Tensor:
        """Compute logits (..., V) float32 from the residual stream (..., D)."""
        rows = X.reshape(-1, X.shape[-1]).contiguous()
        return self._head(rows).view(*X.shape[:-1], -1)

    def _head(self, rows: Tensor) -> Tensor:
        logits = torch.empty(len(rows), self.config.vocab_size)
        self._plan.head(rows, logits)
        return logits

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by their official names, as stored in the file."""
        return self._weights.stored()

    def new_layers(self, batch: int) -> tuple[LayerState, ...]:
        """Return the empty state for `batch` rows."""
        parts = self._allocate(batch)
        for part in parts[:3]:
            part.zero_()
        if self.config.generation == "4":
            parts.wkv[:, :, 2] = MINUS_INFINITY
        return StackedLayers.of(parts)

    def _embed(self, ids: Tensor) -> Tensor:
        """Return a float32 copy (tokens, D) of rows of the embedding."""
        found = torch.index_select(self.embedding, 0, ids)  # a copy
        return found.to(self._embedding_dtype).to(torch.float32)

    def _body(
        self, counts: Tensor, X: Tensor, layers: Sequence[LayerState], *, keep: bool = False
    ) -> tuple[StackedLayers, Rewind | None]:
        """Pass rows through the layers, and keep what a rewind needs; X is overwritten."""
        new = self._allocate(len(counts))
        old = readable(layers, new)
        kept = allocate_kept(self._memory, self.config, len(X)) if keep else None
        numbers = None if self._row_adapters is None else self._row_adapters.numbers
        self._plan.body(
            counts,
            X,
            old.addresses,
            new.addresses,
            None if kept is None else kept.addresses,
            None if numbers is None else torch.tensor(numbers, dtype=torch.int32),
        )
        if kept is None:
            return StackedLayers.of(new), None
        return StackedLayers.of(new), Rewind(self._plan, self._allocate, counts, old, kept)

    def _allocate(self, batch: int) -> Parts:
        """Return memory for the state of a number of rows."""
        return allocate(self._memory, self.config, batch)


def _all(tokens: int, batch: int) -> Tensor:
    """Return the number of tokens of each row without padding."""
    return torch.full((batch,), tokens, dtype=torch.int32)
