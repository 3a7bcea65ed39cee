"""From a path to a model: its checkpoint, generation, network, dtype and tokenizer."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from wkv import demo, hub
from wkv.checkpoint import FLOATS, Checkpoint, open_checkpoint
from wkv.checkpoint.layouts import FOLDER_LAYOUTS, is_folded, official, with_config_file
from wkv.errors import CheckpointError, InputError, StrategyError
from wkv.inference.model import Model
from wkv.inference.torch_weights import fill
from wkv.models import GENERATIONS, Config, read_config
from wkv.models.int8 import OUTPUT_PARTS, PARTS, SCALE
from wkv.models.parts import Skeleton, is_matrix
from wkv.native import network as native
from wkv.native.weights import Weights
from wkv.strategy import Strategy, choose_strategy
from wkv.tokenizers import Tokenizer, choose_tokenizer, open_tokenizer

LISTED = 4
"""How many wrong tensors an error names before it only counts."""

ENGINES = ("auto", "native", "torch")
MOST_THREADS = 1024

IDENTITY_SAMPLE = 16
"""Values of each tensor that make a model's identity: one page of each, so nothing more is read."""

UNUSED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")
"""In most RWKV-7 files, and never used: layer 0 defines the value that v0 to v2 mix in."""


@dataclass(frozen=True)
class Description:
    """What a checkpoint is, known without reading its weights.

    Attributes:
        checkpoint: the opened file.
        config: generation and sizes.
        network: the network on the meta device, without weights.
        tuned: names of tuned initial states, `blocks.l.att.time_state`; usually none.
    """

    checkpoint: Checkpoint
    config: Config
    network: Skeleton
    tuned: tuple[str, ...]

    @property
    def n_params(self) -> int:
        """Number of parameters in the file, without tuned initial states and int8 scales."""
        others = {*self.tuned, *self.scales}
        shapes = self.checkpoint.shapes
        return sum(math.prod(shapes[name]) for name in shapes if name not in others)

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the offsets and scales of int8 matrices; usually none."""
        return tuple(name for name in self.checkpoint if SCALE.fullmatch(name))

    @property
    def state_bytes(self) -> int:
        """Bytes of one row's state."""
        layer = self.network.new_layers(1)[0]
        numbers = layer.att_shift.numel() + layer.wkv.numel() + layer.ffn_shift.numel()
        return 4 * numbers * self.config.n_layer

    @property
    def finest_dtype(self) -> torch.dtype:
        """The finest dtype of the matrices in the file."""
        return max(self.dtypes, key=lambda dtype: (dtype.itemsize, str(dtype)))

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """Dtypes of the matrices in the file; int8 among them if it was made with such."""
        shapes, dtypes = self.checkpoint.shapes, self.checkpoint.dtypes
        return frozenset(dtypes[name] for name in shapes if is_matrix(name, shapes[name]))


def load(
    path: str | Path | None = None,
    strategy: str = "auto",
    *,
    tokenizer: str | Path | Tokenizer | None = None,
    group_norm_eps: float | None = None,
    threads: int | None = None,
    engine: str = "auto",
) -> Model:
    """Load a model.

    Args:
        path: a `.pth` or `.safetensors` file, the index of a sharded one, a Hugging Face
            directory, or a name of the catalog whose file is on this machine. None: the built-in
            model.
        strategy: "auto" (never lossy), or a string such as "cpu fp32" in ChatRWKV's language, see
            `wkv.strategy.language`.
        tokenizer: "world", "20b", "bytes", a file, or a tokenizer. None: chosen from the size of
            the vocabulary, when it is first used.
        group_norm_eps: of the norm per head in generations 5 to 7, if not 64e-5. (The tiny 5.x
            test models of rwkv.cpp need 1e-5.)
        threads: that compute on a CPU. None: as many as PyTorch has.
        engine: "native", which is the fast one on a CPU; "torch", whose `network` is a torch module
            that can be changed and trained; "auto": the native one where it can run the model.

    Returns:
        The model. Matrices that need no cast stay mapped to the file.

    Raises:
        CheckpointError: if the file is no RWKV checkpoint that wkv knows.
        CatalogError: if it is a name whose file is not on this machine, or of no model.
        StrategyError: if the strategy is wrong or its device is not there.
        TokenizerError: if the tokenizer that was named is none.
    """
    description = describe(path)
    if group_norm_eps is not None:
        if isinstance(group_norm_eps, bool) or not isinstance(group_norm_eps, (int, float)):
            raise InputError(f"group_norm_eps is {group_norm_eps!r}, expected a number")
        description = _build(
            description.checkpoint, replace(description.config, group_norm_eps=group_norm_eps)
        )
    chosen = strategy_for(description, strategy)
    named = None
    if tokenizer is not None:
        named = open_tokenizer(tokenizer, description.config.vocab_size)
    if engine == "torch" or native_refusal(description, chosen) is not None:
        chosen = chosen.for_torch()
    return build_model(description, chosen, named, threads=threads, engine=engine)


def strategy_for(description: Description, text: str, *, check: bool = True) -> Strategy:
    """The strategy of a string for a checkpoint; `auto` is the one a converted file was made for.

    Without `check`, devices that are not here may be named.

    Raises:
        StrategyError: if the string is wrong or its device is not there.
    """
    made_for = description.checkpoint.strategy
    sizes = description.config.n_layer, description.dtypes, description.n_params
    if made_for is None or text != "auto":
        fast = native.refusal(description.config) is None
        return choose_strategy(text, *sizes, check=check, native=fast)
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
) -> Model:
    """A model from a description, which is used up.

    Raises:
        InputError: for a number of threads or an engine that there is not.
        StrategyError: if the strategy does not fit the file, the engine, or the memory.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise InputError(f"threads is {threads!r}, expected 1 to {MOST_THREADS}")
    config, checkpoint = description.config, description.checkpoint
    file, name = checkpoint.path, identity(description)
    network = _network(description, strategy, threads, engine)
    return Model(
        network,
        strategy=strategy,
        path=file,
        identity=name,
        layout=checkpoint.layout,
        make_tokenizer=lambda: tokenizer or choose_tokenizer(config.vocab_size, file),
        initial_wkv=_initial_wkv(description, strategy),
        threads=threads,
    )


def native_refusal(description: Description, strategy: Strategy) -> str | None:
    """Why the native engine cannot run a checkpoint by a strategy; None if it can."""
    if any(layer.device.type != "cpu" or layer.quantized for layer in strategy.layers):
        return "it is for strategies on the cpu, without ChatRWKV's i8"
    if description.scales:
        return "the file has ChatRWKV's int8 matrices"
    return native.refusal(description.config)


def _network(
    description: Description, strategy: Strategy, threads: int | None, engine: str
) -> Skeleton | native.NativeNetwork:
    """What computes: the engine that was asked for, with its weights."""
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r}, expected one of {', '.join(ENGINES)}")
    config, checkpoint = description.config, description.checkpoint
    refusal = native_refusal(description, strategy)
    if engine == "native" and refusal is not None:
        raise StrategyError(f"{checkpoint.path}: the native engine cannot run this: {refusal}")
    try:
        if engine == "torch" or refusal is not None:
            return fill(description.network, checkpoint, strategy)
        shapes = {name: tuple(t.shape) for name, t in description.network.state_dict().items()}
        weights = Weights(checkpoint, shapes, strategy)
        folded = is_folded(checkpoint)
        return native.NativeNetwork(config, weights, folded=folded, threads=threads)
    except (MemoryError, RuntimeError) as error:  # how PyTorch says that memory ran out
        if not isinstance(error, MemoryError) and "memory" not in str(error).lower():
            raise
        size = strategy.dtype.itemsize * description.n_params / 2**30
        raise StrategyError(
            f"{checkpoint.path}: the model does not fit into the memory of {strategy.device} "
            f"({size:.1f} GiB in {strategy}); use a strategy with fewer bytes, such as int8 on the "
            "cpu, bf16i8 or a streamed one elsewhere, or a smaller model"
        ) from error


def describe(path: str | Path | None = None) -> Description:
    """Open a checkpoint and say what it is, without reading its weights.

    Raises:
        CheckpointError: if it is no RWKV checkpoint that wkv knows; names the file.
        CatalogError: if it is a name whose file is not on this machine, or of no model.
    """
    checkpoint = official(open_checkpoint(demo.WEIGHTS if path is None else hub.resolve(path)))
    try:
        config = read_config(checkpoint.shapes)
        if checkpoint.layout in FOLDER_LAYOUTS:
            config = with_config_file(config, checkpoint.path, checkpoint.layout)
        return _build(checkpoint, config)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def identity(description: Description) -> str:
    """A digest of a model: the same for the same weights, in whatever file and float dtype.

    Taken over the generation and the first values of every tensor, as float32. A packed file has
    that of the model it was made from, as has that model when it is packed as it is loaded.
    """
    if description.checkpoint.identity is not None:
        return description.checkpoint.identity
    digest = hashlib.sha256(description.config.generation.encode())
    for name in sorted(set(description.checkpoint) - {*description.tuned, *UNUSED}):
        values = description.checkpoint[name].reshape(-1)[:IDENTITY_SAMPLE].float()
        digest.update(name.encode() + values.numpy().tobytes())
    return digest.hexdigest()[:16]


def _build(checkpoint: Checkpoint, config: Config) -> Description:
    """The network for a checkpoint, on the meta device; checks that every tensor fits."""
    with torch.device("meta"):
        network = GENERATIONS[config.generation].network(config)
    if is_folded(checkpoint):
        network.blocks[0].ln0 = nn.Identity()
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    expected |= _int8_parts(checkpoint, expected)
    tuned = tuple(
        name for name in checkpoint if name.endswith(".att.time_state") and config.generation != "4"
    )
    complaints = _misfits(checkpoint, expected, {*tuned, *UNUSED})
    if complaints:
        raise CheckpointError(
            f"the tensors are not those of RWKV-{config.generation} with {config.n_layer} layers "
            f"of {config.n_embd} channels: {'; '.join(complaints)}; the file is incomplete, "
            "damaged or of a variant that wkv does not know"
        )
    return Description(checkpoint, config, network, tuned)


def _int8_parts(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the offsets and scales that the int8 matrices of a file need."""
    return {
        f"{name}_{part}": (shape[0] if part in OUTPUT_PARTS else shape[1],)
        for name, shape in expected.items()
        if checkpoint.dtypes.get(name) == torch.int8 and len(shape) == 2
        for part in PARTS
    }


def _misfits(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], allowed: set[str]
) -> list[str]:
    """What is wrong with a checkpoint's tensors: missing, unexpected, misshapen, not numbers."""
    shapes = checkpoint.shapes
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected and name not in allowed]
    misshapen = [
        f"{name} has shape {shapes[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in shapes and _significant(shapes[name]) != _significant(shape)
    ]
    not_float = [
        f"{name} is {checkpoint.dtypes[name]}, expected a float type"
        for name in expected
        if name in shapes and checkpoint.dtypes[name] not in FLOATS
        if not (checkpoint.dtypes[name] == torch.int8 and f"{name}_mx" in shapes)
    ]
    return [
        *_listed("missing", missing),
        *_listed("unexpected", unexpected),
        *_listed("misshapen", misshapen),
        *_listed("not floats", not_float),
    ]


def _listed(what: str, items: list[str]) -> list[str]:
    """One complaint for a list of wrong tensors, or none."""
    if not items:
        return []
    more = f" and {len(items) - LISTED} more" if len(items) > LISTED else ""
    return [f"{what}: {', '.join(items[:LISTED])}{more}"]


def _significant(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its axes of size 1, which files have or lack at will."""
    return tuple(size for size in shape if size != 1)


def _initial_wkv(description: Description, strategy: Strategy) -> list[Tensor] | None:
    """Tuned initial states, one (H, N, N) a layer, stored as (value, key) like ours."""
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
