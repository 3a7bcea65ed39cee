"""From any checkpoint to a Hugging Face directory that needs no editing, proved before it stays."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint.atomic_write import destination as to_be_written
from wkv.checkpoint.atomic_write import unfinished, writing
from wkv.checkpoint.layouts import FOLDER_LAYOUTS, foreign_tensors
from wkv.convert.checkpoint_file import unshared
from wkv.convert.checks import check_publishable
from wkv.convert.huggingface.card import Provenance, card
from wkv.convert.huggingface.repair import changes
from wkv.convert.huggingface.target import (
    UNKNOWN,
    Target,
    config_file,
    context_of,
    generation_file,
    license_of,
    name_of,
    target_for,
    write_json,
)
from wkv.convert.huggingface.tokenizer_choice import (
    padding_id_of,
    tokenizer_of,
    write_vocabulary_of,
)
from wkv.convert.huggingface.verify import Proof, prove
from wkv.errors import InputError
from wkv.inference.load import Description, describe
from wkv.models.parts import is_matrix

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

BLOCK = 2**22


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a directory is to be.

    Attributes:
        layout: of the names; None: the usual one of the generation.
        dtype: "fp32", "bf16" or "fp16" for the matrices; None: as they are.
        shard_size: such as "5GB"; larger models come in several files.
        license: of the weights, as the hub names it; None: what a directory's own card states.
        repo: where the source is on the hub.
        context: tokens the model was trained on at a time; None: from the name of the file.
        tokenizer: a tokenizer file, where the size of the vocabulary does not tell.
    """

    layout: str | None = None
    dtype: str | None = None
    shard_size: str = "5GB"
    license: str | None = None
    repo: str | None = None
    context: int | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the directory.
        layout: of the names.
        proof: how far its logits are from the source's.
        dropped: tensors that no model uses and that were left out.
        tokenizer: the name of the tokenizer that was written; None if there is none.
        repaired: what differs from the source, if that is a directory that was exported earlier.
    """

    path: Path
    layout: str
    proof: Proof
    dropped: tuple[str, ...]
    tokenizer: str | None
    repaired: tuple[str, ...] = ()


def export(
    source: str | Path,
    destination: str | Path,
    choices: Choices | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write a Hugging Face directory; it appears whole, after it was proved, or not at all.

    Args:
        source: any checkpoint that `wkv.load` reads.
        destination: a directory that does not exist yet, or is empty.
        choices: how it is to be.
        notice: told what a user should know.

    Raises:
        CheckpointError: if the source cannot be read, was made for a strategy, or the directory
            differs from it or cannot be written.
        InputError: for impossible choices, or a destination that is in use.
    """
    choices = choices or Choices()
    if choices.context is not None and choices.context < 1:
        raise InputError(f"context is {choices.context}, expected a number of tokens, from 1")
    description = describe(source)
    check_publishable(description, "Hugging Face models")
    target = target_for(description.config, choices.layout)
    folder = _destination(destination)
    with unfinished(folder) as hidden:
        partial = hidden / folder.name
        partial.mkdir()
        dropped = _write_weights(description, target, partial, choices)
        tokenizer = tokenizer_of(description, choices.tokenizer, notice)
        written = write_vocabulary_of(description, partial, tokenizer, notice)
        padding_id = padding_id_of(tokenizer, description.config.vocab_size)
        _write_words(description, target, partial, choices, dropped, padding_id)
        proof = prove(description, partial, target, dtype=choices.dtype, tokenizer=tokenizer)
        source_path = description.checkpoint.path
        is_folder = description.checkpoint.layout in FOLDER_LAYOUTS
        repaired = changes(source_path.parent, partial) if is_folder else ()
        with writing(folder):
            if folder.exists():
                folder.rmdir()
            partial.replace(folder)
    return Exported(folder, target.layout, proof, dropped, written, repaired)


def _destination(wanted: str | Path) -> Path:
    """The directory to write."""
    folder = to_be_written(wanted)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file; give the name of a new directory")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: the directory is not empty; give the name of a new one")
    return folder


def _write_weights(
    description: Description, target: Target, folder: Path, choices: Choices
) -> tuple[str, ...]:
    """Write the tensors under the layout's names; returns the names that were left out."""
    from huggingface_hub import save_torch_state_dict

    if choices.dtype is not None and choices.dtype not in DTYPES:
        raise InputError(f"dtype is {choices.dtype!r}, expected one of {', '.join(DTYPES)}")
    checkpoint = description.checkpoint
    used = description.network.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, parameter in used.items():
        shape = official_shape(tuple(parameter.shape))
        tensor = checkpoint[name].reshape(shape)
        if choices.dtype is not None and is_matrix(name, shape):
            tensor = _cast(name, tensor, DTYPES[choices.dtype])
        tensors[name] = tensor
    foreign = foreign_tensors(tensors, target.rules)
    try:
        with writing(folder):
            save_torch_state_dict(unshared(foreign), folder, max_shard_size=choices.shard_size)
    except ValueError as error:
        raise InputError(
            f"shard size {choices.shard_size!r}: {error}; give one such as 5GB"
        ) from error
    return tuple(sorted(set(checkpoint) - set(used)))


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix in another dtype.

    Raises:
        InputError: if a value is too large for it.
    """
    cast = tensor.to(dtype)
    if dtype == torch.float16 and bool(cast.isinf().any()):
        raise InputError(f"{name} has values that do not fit into fp16; choose bf16")
    return cast


def official_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a tensor in official files: one value a head, in 5.0 and 5.1, has one axis."""
    return shape[:1] if len(shape) == 2 and shape[1] == 1 else shape


def _write_words(
    description: Description,
    target: Target,
    folder: Path,
    choices: Choices,
    dropped: tuple[str, ...],
    padding_id: int,
) -> None:
    """Write configuration, code and card."""
    config, checkpoint = description.config, description.checkpoint
    context = context_of(config, checkpoint) if choices.context is None else choices.context
    dtype = _dtype_name(description, choices)
    fields = config_file(config, target, context=context, dtype=dtype, padding_id=padding_id)
    write_json(folder / "config.json", fields)
    write_json(folder / "generation_config.json", generation_file(padding_id))
    if target.module is not None:
        from wkv.convert.huggingface.standalone import standalone_source

        (folder / f"{target.module}.py").write_text(standalone_source(target.module))
    provenance = Provenance(
        name_of(checkpoint),
        _sha256(checkpoint.path),
        choices.license or license_of(checkpoint) or UNKNOWN,
        choices.repo,
        dropped,
    )
    text = card(config, target, provenance, context, dtype)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _dtype_name(description: Description, choices: Choices) -> str:
    """PyTorch's name of the matrices' dtype: the finest of them."""
    if choices.dtype is not None:
        return str(DTYPES[choices.dtype]).split(".")[1]
    return str(description.finest_dtype).split(".")[1]


def _sha256(path: Path) -> str | None:
    """The checksum of a file; None for what is one of several."""
    if path.suffix == ".json":
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
