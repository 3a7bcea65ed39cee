"""Describe a checkpoint: generation, sizes and tensors, without reading its weights."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from wkv import demo
from wkv.adapters.apply import adapted_identity, adapted_view
from wkv.adapters.open import Adapter, open_adapter
from wkv.adapters.peft_folder import base_identity
from wkv.adapters.rows import RowAdapters, row_adapters
from wkv.checkpoint import FLOATS, Checkpoint, open_checkpoint
from wkv.checkpoint.gguf import LAYOUT as GGUF
from wkv.checkpoint.gguf import vocabulary_of
from wkv.checkpoint.layouts import FOLDER_LAYOUTS, is_folded, official, with_config_file
from wkv.checkpoint.weights import check_finite
from wkv.errors import CheckpointError
from wkv.models import GENERATIONS, Config, read_config
from wkv.models.int8 import OUTPUT_PARTS, PARTS, SCALE
from wkv.models.parts import Shapes, is_matrix
from wkv.native.network import unsupported_reason
from wkv.tokenizers import Tokenizer, choose_tokenizer
from wkv.tokenizers.choose import tokenizer_file_of
from wkv.tokenizers.gguf_vocabulary import gguf_tokenizer

MAX_LISTED = 4
"""Number of wrong tensors that an error names; further ones are only counted."""

IDENTITY_VALUES = 16
"""Values of each tensor that a model's identity depends on; few, so that little is read."""

UNUSED = ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")
"""Tensors of most RWKV-7 files that are never used: layer 0 defines the value that they mix in."""


@dataclass(frozen=True)
class Description:
    """A checkpoint as far as it is known without reading its weights.

    Attributes:
        checkpoint: the opened file.
        config: generation and sizes.
        shapes: the shapes of the network's tensors by official name. A file may lack or have
            axes of size 1.
        tuned: names of tuned initial states, `blocks.l.att.time_state`; usually none.
    """

    checkpoint: Checkpoint
    config: Config
    shapes: Mapping[str, tuple[int, ...]]
    tuned: tuple[str, ...]

    @property
    def n_params(self) -> int:
        """The number of parameters in the file, without tuned initial states and int8 scales."""
        others = {*self.tuned, *self.scales}
        shapes = self.checkpoint.shapes
        return sum(math.prod(shapes[name]) for name in shapes if name not in others)

    @property
    def scales(self) -> tuple[str, ...]:
        """The names of the offsets and scales of int8 matrices; usually none."""
        return tuple(name for name in self.checkpoint if SCALE.fullmatch(name))

    @cached_property
    def native_refusal(self) -> str | None:
        """The reason that the native engine cannot run the model at all; None if it can."""
        if self.scales:
            return "the file has ChatRWKV's int8 matrices"
        return unsupported_reason(self.config)

    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer: that in a GGUF file, or the usual one for the vocabulary's size.

        A vocabulary beside the file is preferred; see `wkv.tokenizers.choose_tokenizer`.

        Raises:
            TokenizerError: if no tokenizer is known, or that of the file does not fit.
        """
        path, vocab_size = self.checkpoint.path, self.config.vocab_size
        if self.checkpoint.layout == GGUF and tokenizer_file_of(path) is None:
            vocabulary = vocabulary_of(path)
            if vocabulary is not None:
                return gguf_tokenizer(path, *vocabulary, vocab_size)
        return choose_tokenizer(vocab_size, path)

    @property
    def state_bytes(self) -> int:
        """The size of one row's state in bytes."""
        config = self.config
        if config.n_head is None or config.head_size is None:
            recurrent = 3 * config.dim_att
        else:
            recurrent = config.n_head * config.head_size**2
        numbers = config.n_layer * (2 * config.n_embd + recurrent)
        return torch.float32.itemsize * numbers

    @property
    def finest_dtype(self) -> torch.dtype:
        """The most precise dtype of the matrices in the file."""
        return max(self.dtypes, key=lambda dtype: (dtype.itemsize, str(dtype)))

    @property
    def dtypes(self) -> frozenset[torch.dtype]:
        """The dtypes of the matrices in the file, including int8; fp16 for quantized GGUF files."""
        if self.checkpoint.auto_dtypes is not None:
            return self.checkpoint.auto_dtypes
        shapes, dtypes = self.checkpoint.shapes, self.checkpoint.dtypes
        return frozenset(dtypes[name] for name in shapes if is_matrix(name, shapes[name]))


def describe(path: str | Path | None = None) -> Description:
    """Open a checkpoint and describe it, without reading its weights.

    Args:
        path: a file, a directory, or a name of the catalog; None is the built-in model.

    Raises:
        CheckpointError: if it is not an RWKV checkpoint that wkv supports; names the file.
        CatalogError: if the name is unknown, or its file is not on this machine.
    """
    checkpoint = official(open_checkpoint(demo.WEIGHTS if path is None else path))
    try:
        config = read_config(checkpoint.shapes)
        if checkpoint.layout in FOLDER_LAYOUTS:
            config = with_config_file(config, checkpoint.path, checkpoint.layout)
        return describe_as(checkpoint, config)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def describe_as(checkpoint: Checkpoint, config: Config) -> Description:
    """Describe an opened checkpoint with a given config; checks that every tensor fits.

    Raises:
        CheckpointError: lists tensors that are missing, unexpected or misshapen.
    """
    shapes = GENERATIONS[config.generation].tensor_shapes(config)
    if is_folded(checkpoint):
        del shapes["blocks.0.ln0.weight"], shapes["blocks.0.ln0.bias"]
    tuned = tuple(
        name for name in checkpoint if name.endswith(".att.time_state") and config.generation != "4"
    )
    expected = shapes | _int8_parts(checkpoint, shapes)
    complaints = _mismatches(checkpoint, expected, {*tuned, *UNUSED})
    if complaints:
        raise CheckpointError(
            f"the tensors are not those of RWKV-{config.generation} with {config.n_layer} layers "
            f"of {config.n_embd} channels: {'; '.join(complaints)}; the file is incomplete, "
            "damaged or of a variant that wkv does not know"
        )
    return Description(checkpoint, config, shapes, tuned)


def adapter_for(description: Description, path: str | Path, alpha: float | None = None) -> Adapter:
    """Open an adapter for a model; see `wkv.adapters.open.open_adapter`.

    Raises:
        CheckpointError: also if wkv tuned the adapter for another model.
    """
    tuned_for = base_identity(Path(path).expanduser())
    if tuned_for not in (None, identity(description)):
        raise CheckpointError(
            f"{path}: the adapter was tuned for the model {tuned_for}, and "
            f"{description.checkpoint.path} is {identity(description)}; give the model that it was "
            "tuned for"
        )
    stored = description.checkpoint.shapes
    shapes = {name: stored[name] for name in description.shapes}
    adapter = open_adapter(path, shapes, alpha)
    generation = description.config.generation
    if adapter.generations and generation[:1] not in adapter.generations:
        raise CheckpointError(
            f"{path}: the adapter is for RWKV-{' or '.join(adapter.generations)}, and "
            f"{description.checkpoint.path} is RWKV-{generation}; give the model that it was "
            "tuned for"
        )
    return adapter


def row_adapters_for(
    description: Description, paths: Mapping[str, str | Path], alpha: float | None = None
) -> RowAdapters:
    """Open adapters among which each row of a batch chooses; see `wkv.adapters.rows`.

    Args:
        description: the model.
        paths: name to file or folder of each adapter.
        alpha: the alpha of their training, for files that do not contain it.

    Raises:
        CheckpointError: if an adapter is not for this model, or cannot be chosen for each row.
    """
    adapters = {name: adapter_for(description, path, alpha) for name, path in paths.items()}
    base = identity(description)
    identities = {name: adapted_identity(base, adapter) for name, adapter in adapters.items()}
    return row_adapters(adapters, identities, description.shapes)


def with_adapter(description: Description, adapter: Adapter) -> Description:
    """Describe a model whose tensors are merged with an adapter when they are read.

    Raises:
        CheckpointError: if the checkpoint was converted so that the adapter cannot change it.
    """
    view = adapted_view(description.checkpoint, adapter, identity(description))
    return replace(description, checkpoint=view)


def identity(description: Description) -> str:
    """Return a digest that identifies a model, in whatever file and float dtype it is stored.

    It covers the generation and the first 16 values of every tensor as float32, not all values, so
    two models that differ elsewhere only have the same identity. A packed file carries the identity
    of the model that it was made from.

    Raises:
        CheckpointError: if one of these values is NaN or infinite.
    """
    if description.checkpoint.identity is not None:
        return description.checkpoint.identity
    checkpoint = description.checkpoint
    names = sorted(set(checkpoint) - {*description.tuned, *UNUSED})
    values = {name: checkpoint[name].reshape(-1)[:IDENTITY_VALUES].float() for name in names}
    if not torch.cat(list(values.values())).isfinite().all():
        for name in names:
            check_finite(f"{checkpoint.path}: {name}", values[name])
    digest = hashlib.sha256(description.config.generation.encode())
    for name in names:
        digest.update(name.encode() + values[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def _int8_parts(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the offsets and scales that a file's int8 matrices need."""
    return {
        f"{name}_{part}": (shape[0] if part in OUTPUT_PARTS else shape[1],)
        for name, shape in expected.items()
        if checkpoint.dtypes.get(name) == torch.int8 and len(shape) == 2
        for part in PARTS
    }


def _mismatches(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int, ...]], allowed: set[str]
) -> list[str]:
    """Return complaints about tensors that are missing, unexpected, misshapen or not floats."""
    shapes = checkpoint.shapes
    missing = [name for name in expected if name not in shapes]
    fragments = _fragments(missing, shapes)
    missing = [name for name in missing if _block(name) not in fragments]
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
        *_complaint("fragments of blocks, perhaps left by a merge", list(fragments.values())),
        *_complaint("missing", missing),
        *_complaint("unexpected", unexpected),
        *_complaint("misshapen", misshapen),
        *_complaint("not floats", not_float),
    ]


def _fragments(missing: Sequence[str], shapes: Shapes) -> dict[str, str]:
    """Return the blocks that lack more tensors than they have, each with what it has."""
    lacks = Counter(map(_block, missing))
    found: dict[str, list[str]] = {}
    for name in shapes:
        found.setdefault(_block(name), []).append(name)
    return {
        block: f"{block} has only {', '.join(found[block][:MAX_LISTED])} and lacks {count} tensors"
        for block, count in lacks.items()
        if block and count > len(found.get(block, []))
    }


def _block(name: str) -> str:
    """Return "blocks.N" for a tensor of block N, otherwise an empty string."""
    return ".".join(name.split(".")[:2]) if name.startswith("blocks.") else ""


def _complaint(kind: str, items: list[str]) -> list[str]:
    """Return one complaint that lists wrong tensors, or none."""
    if not items:
        return []
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return [f"{kind}: {', '.join(items[:MAX_LISTED])}{more}"]


def _significant(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without axes of size 1."""
    return tuple(size for size in shape if size != 1)
