"""A loaded model: `forward` takes ids and a state, and returns logits and a new state.

This is the interface to the engines: a PyTorch network of `wkv.models`, or the native engine. Code
above this module does not know which engine runs the model.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.rows import RowAdapters
from wkv.adapters.tuned_state import read_tuned_state
from wkv.errors import InputError, StateError
from wkv.gpu.network import GpuNetwork
from wkv.gpu.slots import SlotUsage
from wkv.inference.engines import Engine, Network, StepNetwork, kernels_of
from wkv.inference.graph_sampler import GraphSampler
from wkv.inference.rewind import RewindablePass, run_rewindable
from wkv.models.parts import Config, Skeleton
from wkv.models.state import Layers, LayerState, State
from wkv.models.strategy import Strategy
from wkv.models.strategy.products import products_for, threads_for
from wkv.ops.torch_settings import thread_limit, unlimited_threads
from wkv.tokenizers import Tokenizer

TOKENS_AT_ONCE, GPU_TOKENS_AT_ONCE = 512, 4096
"""Largest number of tokens, over all rows, in one pass of the network; limits memory.

On a GPU, a pass of 512 tokens would end before the host has launched it.
"""

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

Ids = Sequence[int] | Sequence[Sequence[int]] | Tensor


class Model:
    """An RWKV model of any generation.

    Attributes:
        config: the generation and the sizes.
        network: the network; on PyTorch a module with the official attribute names.
        engine: "torch", "native" or "cuda".
        kernels: the instruction set that the engine uses on a CPU, such as "avx512_bf16", and the
            names of the GPUs on which it runs.
        threads: number of threads on a CPU.
        weight_bytes: size of all weights that a token needs: all but the embedding, of which it
            needs one row.
        graph_sampler: samples as `sample_batch` does, on the GPU engine; None on other engines.
        strategy: device and dtype, and the reason for the choice.
        path: the checkpoint.
        identity: digest of samples of the tensors; states contain it.
        layout: format of the checkpoint, "pth" or "safetensors".
        start: the state from which texts begin, if one was chosen; see `starting_from`.
    """

    def __init__(
        self,
        network: Skeleton | Engine,
        *,
        strategy: Strategy,
        path: Path,
        identity: str,
        layout: str,
        make_tokenizer: Callable[[], Tokenizer],
        initial_wkv: Sequence[Tensor] | None = None,
        row_adapters: RowAdapters | None = None,
        threads: int | None = None,
    ) -> None:
        self.network: Network = network
        self.graph_sampler = GraphSampler(network) if isinstance(network, GpuNetwork) else None
        self._step_network = network if isinstance(network, StepNetwork) else None
        self.config: Config = network.config
        self.strategy = strategy
        self.threads = threads or unlimited_threads()
        if isinstance(network, Skeleton):
            tensors = network.state_dict()
            self._n_bytes = sum(tensor.nbytes for tensor in tensors.values())
            self.engine, self.kernels = "torch", kernels_of(strategy)
            self.weight_bytes = self._n_bytes - network.emb.weight.nbytes
        else:
            self._n_bytes = self.weight_bytes = network.weight_bytes
            self.engine, self.kernels = network.engine, network.kernels
            self.threads = getattr(network, "threads", self.threads)
        self.path = path
        self.identity = identity
        self.layout = layout
        self._make_tokenizer = make_tokenizer
        self._tokenizer: Tokenizer | None = None
        self._initial_wkv = initial_wkv
        self._row_adapters = row_adapters
        self.start: State | None = None

    def __repr__(self) -> str:
        """Return the generation, the sizes and the strategy."""
        config = self.config
        return (
            f"<RWKV-{config.generation} L{config.n_layer} D{config.n_embd} "
            f"V{config.vocab_size}, {self.strategy}, {self.path.name}>"
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; it is created on first use.

        Raises:
            TokenizerError: if none is known for the vocabulary, or it could not be downloaded.
        """
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        """The device of the model; if there are several, the device of the first layer."""
        return self.strategy.device

    @property
    def tokens_at_once(self) -> int:
        """Largest number of tokens, over all rows, in one pass of the network."""
        on_cpu = any(layer.device.type == "cpu" for layer in self.strategy.layers)
        return TOKENS_AT_ONCE if on_cpu else GPU_TOKENS_AT_ONCE

    @property
    def adapters(self) -> Mapping[str, str]:
        """The adapters that a row may use: name to the identity of the model with it."""
        return {} if self._row_adapters is None else self._row_adapters.identities

    def new_state(self, batch_size: int = 1, adapter: str | None = None) -> State:
        """Return the empty state, or the tuned initial state of a checkpoint that has one.

        Args:
            batch_size: the number of rows.
            adapter: the name of the adapter that the rows use from now on.

        Raises:
            InputError: if no adapter of this name was loaded.
        """
        if adapter is not None and adapter not in self.adapters:
            raise InputError(
                f"the adapter {adapter!r} was not loaded; there are: {', '.join(self.adapters)}"
            )
        if self.start is not None and adapter is None:
            return self.start.rows([0] * batch_size)
        used = () if adapter is None else (self.adapters[adapter],) * batch_size
        layers = self.network.new_layers(batch_size)
        if self._initial_wkv is not None:
            layers = tuple(
                LayerState(layer.att_shift, wkv.expand_as(layer.wkv).clone(), layer.ffn_shift)
                for layer, wkv in zip(layers, self._initial_wkv, strict=True)
            )
        generation, identity = self.config.generation, self.identity
        return State(layers, (0,) * batch_size, generation, identity, adapters=used)

    def starting_from(self, state: State) -> "Model":
        """Return this model with another initial state, from which texts begin.

        Args:
            state: one row, such as a tuned state. The models share their weights.

        Raises:
            StateError: if it is a state of another model, or has several rows.
        """
        start = self._check_state(state, 1)
        model = copy(self)
        model.start = start
        return model

    def tuned_state(self, path: str | Path) -> State | None:
        """Return the tuned state in a file of another program; see `wkv.adapters.tuned_state`.

        Returns:
            One row that has seen no tokens, or None if the file contains something else.

        Raises:
            StateError: if it was tuned for another model, or its values cannot be used.
        """
        tuned = read_tuned_state(path, self.config)
        if tuned is None:
            return None
        layers = []
        for index, empty in enumerate(self.network.new_layers(1)):
            device = empty.wkv.device
            shifts = [empty.att_shift, empty.ffn_shift]
            if tuned.shifts is not None:
                shifts = [shift[None].to(device) for shift in tuned.shifts[:, index]]
            layers.append(LayerState(shifts[0], tuned.wkv[index][None].to(device), shifts[1]))
        # No program that writes these files reads an id before a text.
        generation, identity = self.config.generation, self.identity
        return State(tuple(layers), (0,), generation, identity, begins_with=())

    def forward(
        self,
        ids: Ids,
        state: State | None = None,
        *,
        all_logits: bool = False,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Read tokens and predict the next one; used for prefill and decode alike.

        Args:
            ids: a list of T ids or a tensor (T,), for one row; a tensor (B, T) for a batch.
            state: the state to continue from, with the same number of rows; None is the empty
                state. It is not changed.
            all_logits: return the logits after every token, instead of after the last one.
            lengths: for a batch, the number of tokens in each row without padding (at least 1).
                Padding is on the right and consists of any valid id. It does not change a result.

        Returns:
            Logits float32, (V,) or, with all_logits, (T, V); for a batch (B, V) or (B, T, V),
            where logits at padding have no meaning. And the new state.

        Raises:
            InputError: for no tokens, ids that are not in the vocabulary, or wrong lengths.
            StateError: for a state of another model or another number of rows, or one that cannot
                be moved to the model's devices. (A state on other devices is moved.)
        """
        tokens, single = self._check_ids(ids)
        batch = len(tokens)
        counts = self._check_lengths(lengths, tokens)
        state = self._check_state(state, batch)
        added = [tokens.shape[1]] * batch if counts is None else counts.tolist()
        seen = tuple(old + new for old, new in zip(state.tokens_seen, added, strict=True))
        with self._settings(tokens.numel(), state):
            logits, layers = self._run(tokens, state.layers, counts, all_logits)
            if all_logits:
                ends = [count - 1 for count in added]
                after = logits[torch.arange(batch, device=logits.device), ends]
            else:
                after = logits.clone()  # the caller may change the logits; the state must not
        new_state = replace(state, layers=layers, tokens_seen=seen, logits=after)
        return (logits[0] if single else logits), new_state

    def forward_rewindable(
        self,
        ids: Ids,
        state: State | None = None,
        *,
        lengths: Sequence[int] | Tensor | None = None,
    ) -> RewindablePass:
        """Read tokens in one pass, and keep what is needed to take the last of them back.

        Arguments and errors are those of `forward`; the pass is not divided, so give few tokens.

        Returns:
            The logits after each token, the new state, and `rewind`, which returns the state after
            the first tokens of each row. See `wkv.inference.rewind`.
        """
        tokens, _ = self._check_ids(ids)
        counts = self._check_lengths(lengths, tokens)
        state = self._check_state(state, len(tokens))
        with self._settings(tokens.numel(), state):
            X, layers, again = run_rewindable(self.network, tokens, state.layers, counts)
            logits = self.network.logits(X)

        def layers_after(taken: Tensor) -> Layers:
            with self._settings(tokens.numel(), state):
                return again(taken)

        added = [tokens.shape[1]] * len(tokens) if counts is None else counts.tolist()
        return RewindablePass(logits, state, layers, added, layers_after)

    def hidden(self, ids: Ids, state: State | None = None) -> tuple[Tensor, State]:
        """Return the residual stream after each token, before the head.

        Arguments and errors are those of `forward`, without padding.

        Returns:
            Float32 (T, D), or (B, T, D) for a batch; and the new state, without logits.
        """
        tokens, single = self._check_ids(ids)
        state = self._check_state(state, len(tokens))
        layers, chunks = state.layers, []
        with self._settings(tokens.numel(), state), torch.no_grad():
            step = max(1, self.tokens_at_once // len(tokens))
            for start in range(0, tokens.shape[1], step):
                X, layers = self.network(tokens[:, start : start + step], layers)
                chunks.append(X.float().clone())
        X = torch.cat(chunks, dim=1)
        seen = tuple(count + tokens.shape[1] for count in state.tokens_seen)
        new_state = replace(state, layers=layers, tokens_seen=seen, logits=None)
        return (X[0] if single else X), new_state

    @property
    def slot_usage(self) -> SlotUsage | None:
        """The memory of states on the GPU engine; None on other engines."""
        return self.network.slot_usage if isinstance(self.network, GpuNetwork) else None

    @property
    def skip_zeros(self) -> bool:
        """Whether weights that are multiplied by zero are not read. Settable for measurements."""
        return bool(getattr(self.network, "skip_zeros", False))

    @skip_zeros.setter
    def skip_zeros(self, skip: bool) -> None:
        if self.engine != "native":
            raise InputError(f"only the native engine skips zeros, this one is {self.engine}")
        self.network.skip_zeros = skip  # type: ignore[attr-defined]

    @contextmanager
    def _settings(self, n_tokens: int, state: State) -> Iterator[None]:
        """Choose the adapters of a state's rows, PyTorch's threads and its matrix products."""
        chosen: AbstractContextManager[None] = nullcontext()
        if self._row_adapters is not None:
            chosen = self._row_adapters.choose(state.row_adapters)
        with chosen, self._threads_and_products(n_tokens):
            yield

    @contextmanager
    def _threads_and_products(self, rows: int) -> Iterator[None]:
        """Set PyTorch's threads and matrix products for a call with a number of rows."""
        if self.engine == "native":  # PyTorch's threads would slow down the engine's threads
            with thread_limit(1):
                yield
            return
        with (
            threads_for(self._n_bytes, self.strategy, self.threads),
            products_for(rows, self.strategy),
        ):
            yield

    @torch.no_grad()
    def _run(
        self,
        tokens: Tensor,
        layers: Layers,
        counts: Tensor | None,
        all_logits: bool,
    ) -> tuple[Tensor, Layers]:
        """Pass ids (B, T) through the network in chunks."""
        batch, total = tokens.shape
        if total == 1 and self._step_network is not None:
            logits, layers = self._step_network.step(tokens[:, 0], layers)
            return (logits[:, None] if all_logits else logits), layers
        # Engines count rows on the host; PyTorch's modules need the numbers on the device.
        where = self.device if self.engine == "torch" else torch.device("cpu")
        step = max(1, self.tokens_at_once // batch)
        chunks: list[Tensor] = []
        last: Tensor | None = None
        for start in range(0, total, step):
            chunk = tokens[:, start : start + step]
            lengths = None
            if counts is not None:
                lengths = (counts - start).clamp(0, chunk.shape[1]).to(where)
            X, layers = self.network(chunk, layers, lengths)
            if all_logits:
                chunks.append(self.network.logits(X))
            elif lengths is None:
                last = X[:, -1]
            else:  # the last token of a row may be in any chunk
                lengths = lengths.to(X.device)
                at_end = X[torch.arange(batch, device=X.device), (lengths - 1).clamp(min=0)]
                last = at_end if last is None else torch.where(lengths[:, None] > 0, at_end, last)
        if all_logits:
            return torch.cat(chunks, dim=1), layers
        assert last is not None
        return self.network.logits(last), layers

    def _check_ids(self, ids: Ids) -> tuple[Tensor, bool]:
        """Return ids as (B, T) int64, and whether they were a single row without a batch."""
        try:
            tokens = ids if isinstance(ids, Tensor) else torch.tensor(list(ids))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(
                "ids must be a list of integers or an integer tensor (T,) or (B, T); for rows of "
                f"different lengths pad them on the right and give lengths= ({error})"
            ) from error
        if tokens.numel() == 0:
            raise InputError("no tokens were given; give at least one id (0 begins a document)")
        if tokens.dtype not in INTEGERS or tokens.layout != torch.strided or tokens.dim() > 2:
            raise InputError(
                f"ids are {tokens.dtype} {tuple(tokens.shape)}, expected integers (T,) or (B, T)"
            )
        tokens = tokens.to(torch.int64)
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise InputError(
                f"id {wrong} is not in the vocabulary, this model's ids are 0 to "
                f"{self.config.vocab_size - 1}; was the text encoded with another tokenizer?"
            )
        single = tokens.dim() <= 1
        return (tokens.reshape(1, -1) if single else tokens), single

    def _check_lengths(
        self, lengths: Sequence[int] | Tensor | None, tokens: Tensor
    ) -> Tensor | None:
        """Return lengths as (B,) int64 on the CPU, or None without padding."""
        if lengths is None:
            return None
        batch, total = tokens.shape
        try:
            counts = torch.as_tensor(lengths).cpu()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"lengths must be integers, one per row ({error})") from error
        if counts.dtype not in INTEGERS:
            raise InputError(f"lengths are {counts.dtype}, expected integers, one per row")
        counts = counts.to(torch.int64)
        if counts.shape != (batch,):
            raise InputError(
                f"{counts.numel()} lengths were given for {batch} rows; give one per row"
            )
        if int(counts.min()) < 1 or int(counts.max()) > total:
            raise InputError(
                f"lengths are {counts.tolist()}, each must be 1 to {total}, the width of the batch"
            )
        return None if bool((counts == total).all()) else counts

    def _check_state(self, state: State | None, batch: int) -> State:
        """Check a state; returns the empty state for None."""
        if state is None:
            return self.new_state(batch)
        if not isinstance(state, State):
            raise StateError(f"a state is a wkv.State, {type(state).__name__} was given")
        if state.identity != self.identity:
            raise StateError(
                f"the state belongs to another model (RWKV-{state.generation}, {state.identity}), "
                f"this one is RWKV-{self.config.generation}, {self.identity}"
            )
        unknown = set(state.adapters) - {"", *self.adapters.values()}
        if unknown:
            raise StateError(
                f"the state belongs to the model with another adapter ({unknown.pop()}); load that "
                "adapter too"
            )
        if state.batch_size != batch:
            raise StateError(
                f"the state has {state.batch_size} rows and {batch} were given; choose rows with "
                "state.rows or join states with State.stack"
            )
        if self.engine == "cuda" and len(set(state.devices)) == 1:  # it copies all layers at once
            return state
        return state.to([layer.device for layer in self.strategy.layers])
