"""Load a model: choose a strategy and an engine for a checkpoint, and load its weights."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.rows import RowAdapters, add_to_network
from wkv.checkpoint.layouts import is_folded
from wkv.checkpoint.weights import Weights
from wkv.errors import CheckpointError, InputError, StrategyError, WKVError, first_line
from wkv.gpu import unsupported as gpu
from wkv.gpu.choose_step import choose_step
from wkv.gpu.module_step import ModuleStep
from wkv.gpu.network import GpuNetwork, NetworkWeights
from wkv.inference.describe import (
    Description,
    adapter_for,
    describe,
    describe_as,
    identity,
    row_adapters_for,
    with_adapter,
)
from wkv.inference.model import Model
from wkv.inference.torch_weights import gpu_bytes, load_torch_network, table_bytes
from wkv.models.parts import Skeleton
from wkv.models.strategy import Strategy, choose_strategy
from wkv.native import network as native
from wkv.tokenizers import Tokenizer, open_tokenizer

ENGINES = ("auto", "native", "cuda", "torch")
MAX_THREADS = 1024


def load(
    path: str | Path | None = None,
    strategy: str = "auto",
    *,
    tokenizer: str | Path | Tokenizer | None = None,
    group_norm_eps: float | None = None,
    threads: int | None = None,
    engine: str = "auto",
    adapter: str | Path | None = None,
    alpha: float | None = None,
    adapters: Mapping[str, str | Path] | None = None,
) -> Model:
    """Load a model.

    Args:
        path: a `.pth`, `.safetensors` or `.gguf` file, the index of a sharded checkpoint, a Hugging
            Face directory, or a catalog name whose file is on this machine. None is the built-in
            model.
        strategy: "auto" (never lossy), or ChatRWKV's strategy string such as "cpu fp32"; see
            `wkv.models.strategy.language`.
        tokenizer: "world", "20b", "bytes", a file, or a tokenizer. None chooses one by the size of
            the vocabulary, at its first use.
        group_norm_eps: epsilon of the norm per head in generations 5 to 7; None is 64e-5. (The
            tiny 5.x test models of rwkv.cpp need 1e-5.)
        threads: number of CPU threads; None uses PyTorch's number.
        engine: "native" is the fast CPU engine, and "cuda" the engine for one GPU. "torch" gives a
            `network` that is a PyTorch module, which can be changed and trained. "auto" uses an
            engine that can run the model with this strategy, otherwise "torch".
        adapter: an adapter (LoRA, DoRA, MiSS) that is merged into the weights in memory: a folder
            of peft, rwkvtune or mlx-lm, or a file of RWKV-PEFT, web-rwkv or llama.cpp. The model
            then has an identity of its own.
        alpha: the alpha that the adapter was trained with, for files that do not contain it.
        adapters: name to path of adapters (LoRA, MiSS) that are kept beside the weights. Each row
            of a batch may use one of them, see `Model.new_state`.

    Returns:
        The model. Matrices that need no conversion stay memory-mapped.

    Raises:
        CheckpointError: if the file is not an RWKV checkpoint that wkv supports.
        CatalogError: if the name is unknown, or its file is not on this machine.
        StrategyError: if the strategy is invalid, or its device is missing.
        TokenizerError: if the tokenizer does not exist or cannot be read.
    """
    description = describe(path)
    if group_norm_eps is not None:
        if isinstance(group_norm_eps, bool) or not isinstance(group_norm_eps, (int, float)):
            raise InputError(f"group_norm_eps is {group_norm_eps!r}, expected a number")
        config = replace(description.config, group_norm_eps=group_norm_eps)
        description = describe_as(description.checkpoint, config)
    if adapter is not None:
        description = with_adapter(description, adapter_for(description, adapter, alpha))
    elif alpha is not None and not adapters:
        raise InputError(f"alpha is {alpha!r} without an adapter; give the adapter too")
    chosen = strategy_for(description, strategy)
    named = None
    if tokenizer is not None:
        named = open_tokenizer(tokenizer, description.config.vocab_size)
    if engine == "torch" or native_unsupported_reason(description, chosen) is not None:
        chosen = chosen.for_torch()
    rows = row_adapters_for(description, adapters, alpha) if adapters else None
    return build_model(description, chosen, named, threads=threads, engine=engine, rows=rows)


def strategy_for(description: Description, text: str, *, check: bool = True) -> Strategy:
    """Return the strategy that a string means for a checkpoint.

    For a file that was converted for a strategy, `auto` is that strategy. Without `check`, the
    string may name devices that this machine lacks.

    Raises:
        StrategyError: if the string is invalid, or a device is missing.
    """
    made_for = description.checkpoint.strategy
    sizes = description.config.n_layer, description.dtypes, description.n_params
    if made_for is None or text != "auto":
        fast = description.native_refusal is None
        needed = partial(gpu_bytes, description.config, description.shapes)
        return choose_strategy(text, *sizes, check=check, native=fast, gpu_bytes=needed)
    try:
        chosen = choose_strategy(made_for, *sizes, check=check)
    except StrategyError as error:
        raise StrategyError(
            f"{description.checkpoint.path}: the file was converted for {made_for!r}, which this "
            f"machine cannot run ({error}); name another: --strategy, such as 'cpu bf16i8'"
        ) from error
    return replace(chosen, reason="the file was converted for it")


def build_model(
    description: Description,
    strategy: Strategy,
    tokenizer: Tokenizer | None = None,
    *,
    threads: int | None = None,
    engine: str = "auto",
    rows: RowAdapters | None = None,
) -> Model:
    """Build a model from a description; `rows` are the adapters that its rows may choose.

    Raises:
        InputError: if the number of threads or the engine is invalid.
        StrategyError: if the strategy does not fit the file, the engine, or the memory.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise InputError(f"threads is {threads!r}, expected 1 to {MAX_THREADS}")
    checkpoint = description.checkpoint
    network = _network(description, strategy, threads, engine, rows)
    return Model(
        network,
        strategy=strategy,
        path=checkpoint.path,
        identity=identity(description),
        layout=checkpoint.layout,
        make_tokenizer=lambda: tokenizer or description.tokenizer(),
        initial_wkv=_initial_wkv(description, strategy),
        row_adapters=rows,
        threads=threads,
    )


def native_unsupported_reason(description: Description, strategy: Strategy) -> str | None:
    """Return why the native engine cannot run a checkpoint with a strategy; None if it can."""
    if any(layer.device.type != "cpu" or layer.quantized for layer in strategy.layers):
        return "it supports strategies on the cpu only, without ChatRWKV's i8"
    return description.native_refusal


def gpu_unsupported_reason(description: Description, strategy: Strategy) -> str | None:
    """Return why the GPU engine cannot run a checkpoint with a strategy; None if it can."""
    reason = gpu.unsupported_reason(strategy)
    if reason is not None:
        return reason
    needed = gpu_bytes(description.config, description.shapes, strategy)
    return gpu.lack_of_memory(strategy, needed + table_bytes(description.shapes, strategy))


def _engine_for(
    description: Description, strategy: Strategy, engine: str, rows: RowAdapters | None
) -> str:
    """Return the engine to use for the requested one.

    Raises:
        InputError: if it is unknown.
        StrategyError: if it cannot run the model.
    """
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    reasons = {
        "native": native_unsupported_reason(description, strategy),
        "cuda": gpu_unsupported_reason(description, strategy),
    }
    if rows is not None and reasons["cuda"] is None:
        reasons["cuda"] = "adapters that each row chooses run on PyTorch"
    if (reason := reasons.get(engine)) is not None:
        path = description.checkpoint.path
        raise StrategyError(f"{path}: the {engine} engine cannot run this: {reason}")
    if engine != "auto":
        return engine
    return next((name for name, reason in reasons.items() if reason is None), "torch")


def _network(
    description: Description,
    strategy: Strategy,
    threads: int | None,
    engine: str,
    rows: RowAdapters | None,
) -> Skeleton | native.NativeNetwork | GpuNetwork:
    """Load the weights into the network of an engine.

    Raises:
        InputError: if the engine is unknown.
        StrategyError: if the engine cannot run the model, or memory does not suffice.
    """
    config, checkpoint = description.config, description.checkpoint
    engine = _engine_for(description, strategy, engine, rows)
    try:
        weights = Weights(checkpoint, description.shapes, strategy)
        if engine == "native":
            folded = is_folded(checkpoint)
            return native.NativeNetwork(
                config, weights, folded=folded, row_adapters=rows, threads=threads
            )
        network = load_torch_network(config, weights)
        if rows is not None:
            add_to_network(network, rows)
        return network if engine == "torch" else _on_gpu(network, strategy.device)
    except (MemoryError, RuntimeError) as error:  # PyTorch raises these when memory runs out
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        size = strategy.dtype.itemsize * description.n_params / 2**30
        raise StrategyError(
            f"{checkpoint.path}: the model does not fit into the memory of {strategy.device} "
            f"({size:.1f} GiB in {strategy}); use a strategy with fewer bytes, such as int8 on the "
            "cpu, bf16i8 or a streamed one elsewhere, or a smaller model"
        ) from error


def _on_gpu(network: Skeleton, device: torch.device) -> GpuNetwork:
    """Return a network on the GPU engine, with its embedding on the device."""
    network, notice = network.to(device), logging.getLogger(__name__).warning
    weights, empty = NetworkWeights.of_modules(network), network.new_layers(1)
    built = GpuNetwork(choose_step(network, device, notice), weights, empty)
    try:
        built.rehearse()
    except WKVError:  # there is not enough memory
        raise
    except Exception as error:  # Triton, its assembler, the C compiler and the driver raise others
        notice(f"a kernel failed ({first_line(error)}); PyTorch's modules run instead, slower")
        return GpuNetwork(ModuleStep(network), weights, empty)
    return built


def _initial_wkv(description: Description, strategy: Strategy) -> list[Tensor] | None:
    """Return the tuned initial states, (H, N, N) per layer with axes (value, key), if any."""
    if not description.tuned:
        return None
    config, checkpoint = description.config, description.checkpoint
    shape = (config.n_head, config.head_size, config.head_size)
    states = []
    for layer in range(config.n_layer):
        name = f"blocks.{layer}.att.time_state"
        if checkpoint.shapes.get(name) != shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} has shape {checkpoint.shapes.get(name)}, expected "
                f"{shape}; a tuned state has one for every layer"
            )
        states.append(checkpoint[name].to(strategy.layers[layer].device, torch.float32))
    return states
