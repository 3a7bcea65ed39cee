"""Export of any checkpoint to a complete Hugging Face directory, verified before it is saved."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint.layouts import FOLDER_LAYOUTS, foreign_tensors
from wkv.checkpoint.weights import check_finite
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
from wkv.convert.huggingface.verify import Verification, verify_directory
from wkv.errors import InputError
from wkv.files import checked_destination, move_into_place, temporary_folder, write_errors
from wkv.inference.describe import Description, describe
from wkv.models.parts import is_matrix

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

BLOCK = 2**22


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        layout: naming scheme of the tensors; None: the usual one of the generation.
        dtype: "fp32", "bf16" or "fp16" for the matrices; None: that of the source.
        shard_size: largest size of one weights file, such as "5GB".
        license: license of the weights, as the hub names it; None: as stated by the model card of
            the source, if that is a directory.
        repo: repository of the source on the hub.
        context: context length the model was trained with; None: read from the file name.
        tokenizer: a tokenizer file; None: selected by the vocabulary size.
    """

    layout: str | None = None
    dtype: str | None = None
    shard_size: str = "5GB"
    license: str | None = None
    repo: str | None = None
    context: int | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class ExportResult:
    """The result of an export.

    Attributes:
        path: the directory.
        layout: naming scheme of the tensors.
        verification: how much its logits differ from those of the source.
        dropped: source tensors that were not written because no model uses them.
        tokenizer: the name of the tokenizer that was written; None if there is none.
        repaired: changes from the source, if that is a directory that was exported earlier.
    """

    path: Path
    layout: str
    verification: Verification
    dropped: tuple[str, ...]
    tokenizer: str | None
    repaired: tuple[str, ...] = ()


def export(
    source: str | Path,
    destination: str | Path,
    options: ExportOptions | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> ExportResult:
    """Write a Hugging Face directory, verify it, and only then move it into place.

    Args:
        source: any checkpoint that `wkv.load` reads.
        destination: a directory that does not exist yet, or is empty.
        options: the options of the export.
        notice: called with messages for the user.

    Raises:
        CheckpointError: if the source cannot be read or was made for a strategy, or the directory
            differs from it or cannot be written.
        InputError: for invalid options, or a destination that is in use.
    """
    options = options or ExportOptions()
    if options.context is not None and options.context < 1:
        raise InputError(f"context is {options.context}, expected at least 1 token")
    description = describe(source)
    check_publishable(description, "Hugging Face models")
    target = target_for(description.config, options.layout)
    folder = _destination(destination)
    with temporary_folder(folder) as hidden:
        partial = hidden / folder.name
        partial.mkdir()
        dropped = _write_weights(description, target, partial, options)
        tokenizer = tokenizer_of(description, options.tokenizer, notice)
        written = write_vocabulary_of(description, partial, tokenizer, notice)
        padding_id = padding_id_of(tokenizer, description.config.vocab_size)
        _write_text_files(description, target, partial, options, dropped, padding_id)
        verification = verify_directory(
            description, partial, target, dtype=options.dtype, tokenizer=tokenizer
        )
        source_path = description.checkpoint.path
        is_folder = description.checkpoint.layout in FOLDER_LAYOUTS
        repaired = changes(source_path.parent, partial) if is_folder else ()
        with write_errors(folder):
            if folder.exists():
                folder.rmdir()
            move_into_place(partial, folder)
    return ExportResult(folder, target.layout, verification, dropped, written, repaired)


def _destination(wanted: str | Path) -> Path:
    """Return the path of the directory to write, which must be new or empty."""
    folder = checked_destination(wanted)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: this is a file; name a new directory")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: the directory is not empty; name a new one")
    return folder


def _write_weights(
    description: Description, target: Target, folder: Path, options: ExportOptions
) -> tuple[str, ...]:
    """Write the tensors under the layout's names, and return the names that were not written."""
    from huggingface_hub import save_torch_state_dict

    if options.dtype is not None and options.dtype not in DTYPES:
        raise InputError(f"dtype is {options.dtype!r}, expected one of {', '.join(DTYPES)}")
    checkpoint = description.checkpoint
    used = description.shapes
    tensors: dict[str, Tensor] = {}
    for name, network_shape in used.items():
        shape = official_shape(network_shape)
        tensor = checkpoint[name].reshape(shape)
        check_finite(name, tensor)
        if options.dtype is not None and is_matrix(name, shape):
            tensor = _cast(name, tensor, DTYPES[options.dtype])
        tensors[name] = tensor
    foreign = foreign_tensors(tensors, target.rules)
    try:
        with write_errors(folder):
            save_torch_state_dict(unshared(foreign), folder, max_shard_size=options.shard_size)
    except ValueError as error:
        raise InputError(
            f"shard size {options.shard_size!r}: {error}; give one such as 5GB"
        ) from error
    return tuple(sorted(set(checkpoint) - set(used)))


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast a matrix to another dtype.

    Raises:
        InputError: if a value is too large for float16.
    """
    cast = tensor.to(dtype)
    if dtype == torch.float16 and bool(cast.isinf().any()):
        raise InputError(f"{name} has values that do not fit into fp16; choose bf16")
    return cast


def official_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a tensor in official files.

    It has a single axis for one value per head, as in generations 5.0 and 5.1.
    """
    return shape[:1] if len(shape) == 2 and shape[1] == 1 else shape


def _write_text_files(
    description: Description,
    target: Target,
    folder: Path,
    options: ExportOptions,
    dropped: tuple[str, ...],
    padding_id: int,
) -> None:
    """Write the configuration, the model code and the model card."""
    config, checkpoint = description.config, description.checkpoint
    context = context_of(config, checkpoint) if options.context is None else options.context
    dtype = _dtype_name(description, options)
    fields = config_file(config, target, context=context, dtype=dtype, padding_id=padding_id)
    write_json(folder / "config.json", fields)
    write_json(folder / "generation_config.json", generation_file(padding_id))
    if target.code is not None:
        from wkv.convert.huggingface.standalone import standalone_files

        for name, source in standalone_files(target.code).items():
            (folder / name).write_text(source, encoding="utf-8")
    provenance = Provenance(
        name_of(checkpoint),
        _sha256(checkpoint.path),
        options.license or license_of(checkpoint) or UNKNOWN,
        options.repo,
        dropped,
    )
    text = card(config, target, provenance, context, dtype)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _dtype_name(description: Description, options: ExportOptions) -> str:
    """Return PyTorch's name of the dtype of the matrices, or the most precise of several."""
    if options.dtype is not None:
        return str(DTYPES[options.dtype]).split(".")[1]
    return str(description.finest_dtype).split(".")[1]


def _sha256(path: Path) -> str | None:
    """Return the checksum of a file, or None for the JSON file of a model with several files."""
    if path.suffix == ".json":
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
