"""A network that runs on the native engine, with the interface of the networks of `wkv.models`."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from wkv.checkpoint.weights import Weights
from wkv.errors import StateError
from wkv.models.parts import Config
from wkv.models.state import LayerState
from wkv.native import library, rwkv4, rwkv5, rwkv6, rwkv7
from wkv.native.compiled_plan import CompiledPlan
from wkv.native.plan import Plan
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


class StackedLayers(tuple[LayerState, ...]):
    """The layers of a state whose parts are contiguous tensors, as the engine writes them.

    Attributes:
        parts: att_shift (L, B, D), wkv (L, B, ...), ffn_shift (L, B, D).
    """

    parts: tuple[Tensor, Tensor, Tensor]

    @staticmethod
    def of(parts: tuple[Tensor, Tensor, Tensor]) -> "StackedLayers":
        """Build the layers from parts whose first axis is the layer."""
        layers = StackedLayers(map(LayerState, *(part.unbind(0) for part in parts)))
        layers.parts = parts
        return layers


class NativeNetwork:
    """A model that runs as a compiled plan.

    Attributes:
        config: generation and sizes.
        weight_bytes: bytes of weights that one token reads if no zeros are skipped.
        kernels, threads: the kernels and number of threads in use.
    """

    def __init__(
        self,
        config: Config,
        weights: Weights,
        *,
        folded: bool = False,
        threads: int | None = None,
        kernels: str | None = None,
    ) -> None:
        """With `folded`, the embedding already contains the effect of ln0."""
        self.config, self._weights = config, weights
        self.embedding, self._embedding_dtype = weights.table("emb")
        plan = Plan(config.n_embd, config.vocab_size)
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
            counts = torch.full((batch,), tokens, dtype=torch.int32)
            return X.view(batch, tokens, -1), self._body(counts, X, layers)
        # Padding does not become rows.
        real = torch.arange(tokens) < lengths[:, None]
        if not bool(real.any()):
            return torch.zeros(batch, tokens, self.config.n_embd), tuple(layers)
        X = self._embed(ids[real])
        new_layers = self._body(lengths.to(torch.int32), X, layers)
        padded = X.new_zeros(batch, tokens, X.shape[1])
        padded[real] = X
        return padded, new_layers

    def logits(self, X: Tensor) -> Tensor:
        """Compute logits (..., V) float32 from the residual stream (..., D)."""
        rows = X.reshape(-1, X.shape[-1]).contiguous()
        logits = torch.empty(len(rows), self.config.vocab_size)
        self._plan.head(rows, logits)
        return logits.view(*X.shape[:-1], -1)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by their official names, as stored in the file."""
        return self._weights.stored()

    def new_layers(self, batch: int) -> tuple[LayerState, ...]:
        """Return the empty state for `batch` rows."""
        att_shift, wkv, ffn_shift = (part.zero_() for part in self._allocate(batch))
        if self.config.generation == "4":
            wkv[:, :, 2] = MINUS_INFINITY
        return StackedLayers.of((att_shift, wkv, ffn_shift))

    def _embed(self, ids: Tensor) -> Tensor:
        """Return a float32 copy (tokens, D) of rows of the embedding."""
        found = F.embedding(ids, self.embedding).to(self._embedding_dtype)
        return found.to(torch.float32, copy=True)

    def _body(self, counts: Tensor, X: Tensor, layers: Sequence[LayerState]) -> StackedLayers:
        """Pass rows through the layers; X is overwritten."""
        new = self._allocate(len(counts))
        copies: list[Tensor] = []
        if isinstance(layers, StackedLayers) and _shapes(layers.parts) == _shapes(new):
            old = _addresses(layers.parts)
        else:
            self._check(layers, new)
            copies = [
                part.to(torch.float32).contiguous()
                for layer in layers
                for part in (layer.att_shift, layer.wkv, layer.ffn_shift)
            ]
            old = torch.tensor([part.data_ptr() for part in copies])
        self._plan.body(counts, X, old, _addresses(new))
        return StackedLayers.of(new)

    def _check(self, layers: Sequence[LayerState], like: tuple[Tensor, Tensor, Tensor]) -> None:
        """Raise StateError unless a state has the shapes that the engine reads."""
        shapes = [part.shape[1:] for part in like]
        if len(layers) != self.config.n_layer:
            raise StateError(
                f"the state has {len(layers)} layers, this model has {self.config.n_layer}"
            )
        for layer in layers:
            parts = layer.att_shift, layer.wkv, layer.ffn_shift
            if [part.shape for part in parts] != shapes or any(
                p.device.type != "cpu" for p in parts
            ):
                found = ", ".join(f"{tuple(part.shape)} on {part.device}" for part in parts)
                wanted = ", ".join(str(tuple(shape)) for shape in shapes)
                raise StateError(
                    f"a layer of the state is {found}; expected {wanted} on cpu: select rows "
                    "with state.rows, join states with State.stack"
                )

    def _allocate(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Allocate the parts of a state in one block of memory."""
        config = self.config
        if config.n_head is None or config.head_size is None:
            shape: tuple[int, ...] = (3, config.dim_att)
        else:
            shape = (config.n_head, config.head_size, config.head_size)
        shift, wkv = (config.n_layer, batch, config.n_embd), (config.n_layer, batch, *shape)
        sizes = [math.prod(shift), math.prod(wkv), math.prod(shift)]
        att_shift, recurrence, ffn_shift = torch.split(self._memory.take(sum(sizes)), sizes)
        return att_shift.view(shift), recurrence.view(wkv), ffn_shift.view(shift)


def _shapes(parts: tuple[Tensor, Tensor, Tensor]) -> list[torch.Size]:
    return [part.shape for part in parts]


def _addresses(parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Return the address of each part of each layer, (L, 3) int64."""
    n_layer = len(parts[0])
    begins = torch.tensor([part.data_ptr() for part in parts])
    steps = torch.tensor([part.stride(0) * part.element_size() for part in parts])
    return begins + steps * torch.arange(n_layer)[:, None]
