"""View files whose matrices are packed for the native engine as official checkpoints.

`wkv quantize` writes such files in safetensors format. A packed matrix is stored under its official
name as the bytes that the engine reads. The metadata entry `_wkv_packed` describes the bytes:

    {"version": 1, "identity", "matrices": {NAME: {"format", "layout", "outputs", "inputs"}}}

`identity` is the identity of the model that the file was made from. The names of formats and
layouts are those of `wkv.checkpoint.packing`. Low-rank factors, whose names do not end in
`.weight`, have the shape (inputs, outputs) in official files. Each factor of a stack
(n, inputs, outputs) is stored separately, as `NAME.0` and so on. All other tensors are stored as in
any checkpoint.

In the view, matrices have their official shapes and are float32; they are unpacked on access.
`Checkpoint.read_packed` returns the packed matrices instead, memory-mapped.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.packing import VERSION, Format, Layout, Packed, packed_bytes, unpack
from wkv.checkpoint.tensors import PACKED_KEY, first_sentence
from wkv.errors import CheckpointError

FORMATS, LAYOUTS = ("int8", "int4"), ("blocks", "columns")

STACKED = re.compile(r"(.+)\.(\d{1,4})")

LARGEST = 2**31 - 1
"""Limit of the outputs and inputs of a matrix, which the engine stores as 32-bit integers."""


@dataclass(frozen=True)
class _Description:
    """The format, layout and shape of a packed matrix, without its bytes."""

    format: Format
    layout: Layout
    outputs: int
    inputs: int


def packed_metadata(matrices: Mapping[str, Packed], identity: str) -> str:
    """Return the metadata entry that describes packed matrices, as JSON."""
    described = {
        name: {
            "format": matrix.format.name,
            "layout": matrix.layout.name,
            "outputs": matrix.outputs,
            "inputs": matrix.inputs,
        }
        for name, matrix in matrices.items()
    }
    return json.dumps({"version": VERSION, "identity": identity, "matrices": described})


def unpacked_view(checkpoint: Checkpoint) -> Checkpoint:
    """View the file as an official checkpoint whose `read_packed` returns packed matrices.

    Raises:
        CheckpointError: if the metadata is damaged, of another version, or does not match the
            tensors.
    """
    identity, matrices = _read_metadata(checkpoint)
    stacks = _stacks(checkpoint, matrices)
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if name not in matrices}
    shapes |= {name: _shape(name, one) for name, one in matrices.items() if not _is_part(name)}
    shapes |= {
        name: (len(parts), *_shape(name, matrices[parts[0]])) for name, parts in stacks.items()
    }
    unpacked_names = {name for name in shapes if name in matrices or name in stacks}

    def packed(name: str) -> Packed | None:
        found = matrices.get(name)
        if found is None:
            return None
        return Packed(found.format, found.layout, found.outputs, found.inputs, checkpoint[name])

    view = replace(
        checkpoint,
        layout="packed",
        shapes=shapes,
        dtypes={
            name: torch.float32 if name in unpacked_names else checkpoint.dtypes[name]
            for name in shapes
        },
        identity=identity,
    )
    # The formats of the matrices decide, whatever strategy the metadata may contain.
    is_int4 = any(matrix.format is Format.int4 for matrix in matrices.values())
    return with_packed(view, packed, "cpu int4" if is_int4 else "cpu int8")


def with_packed(
    checkpoint: Checkpoint, packed: Callable[[str], Packed | None], strategy: str
) -> Checkpoint:
    """View a checkpoint with packed matrices in place of its own, unpacked on access.

    Args:
        checkpoint: any view with official names.
        packed: returns the packed matrix of a name, or None if the matrix is not packed.
        strategy: the strategy that the matrices are packed for.
    """

    def read(name: str) -> Tensor:
        part = packed(f"{name}.0")
        if part is None:
            found = packed(name)
            return checkpoint.read(name) if found is None else _unpacked(name, found)
        parts = []
        while part is not None:
            parts.append(_unpacked(name, part))
            part = packed(f"{name}.{len(parts)}")
        return torch.stack(parts)

    return replace(checkpoint, read=read, read_packed=packed, strategy=strategy)


def _unpacked(name: str, matrix: Packed) -> Tensor:
    """Return a packed matrix as official files store it."""
    weights = unpack(matrix)
    return weights if name.endswith(".weight") else weights.t().contiguous()


def _read_metadata(checkpoint: Checkpoint) -> tuple[str, dict[str, _Description]]:
    """Read the identity and the matrices' descriptions, and check them against the tensors."""
    try:
        content = json.loads(checkpoint.metadata[PACKED_KEY])
        version, matrices = content["version"], content["matrices"].items()
        identity = str(content["identity"])[:32]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the metadata that describes its packed matrices cannot be read "
            f"({first_sentence(error)}); the file is damaged, quantize the original again"
        ) from error
    if version != VERSION:
        raise CheckpointError(
            f"{checkpoint.path}: its matrices are packed in version {str(version)[:20]} of the "
            f"format, and this wkv reads version {VERSION}; install a newer wkv, or quantize again"
        )
    return identity, {name: _described(checkpoint, name, value) for name, value in matrices}


def _described(checkpoint: Checkpoint, name: str, value: Any) -> _Description:
    """Check the description of one matrix against its tensor, and return it."""
    found: dict[str, Any] = value if isinstance(value, dict) else {}
    format, layout = found.get("format"), found.get("layout")
    outputs, inputs = found.get("outputs", 0), found.get("inputs", 0)
    if (
        format not in FORMATS
        or layout not in LAYOUTS
        or not all(type(size) is int and 0 < size <= LARGEST for size in (outputs, inputs))
    ):
        raise CheckpointError(
            f"{checkpoint.path}: {name[:80]} is packed as {str(value)[:120]}, expected one of "
            f"{', '.join(FORMATS)} in {' or '.join(LAYOUTS)} with outputs and inputs; the file is "
            "damaged or of another wkv, quantize the original again"
        )
    matrix = _Description(Format[format], Layout[layout], outputs, inputs)
    expected = packed_bytes(matrix.format, matrix.layout, matrix.outputs, matrix.inputs)
    if checkpoint.dtypes.get(name) != torch.uint8 or prod(checkpoint.shapes[name]) != expected:
        shape = checkpoint.shapes.get(name)
        raise CheckpointError(
            f"{checkpoint.path}: {name[:80]} is described as {format} of ({matrix.outputs}, "
            f"{matrix.inputs}), which needs {expected} bytes; found "
            f"{'no tensor' if shape is None else f'{shape} {checkpoint.dtypes[name]}'}; the file "
            "is damaged, quantize the original again"
        )
    return matrix


def _is_part(name: str) -> bool:
    return STACKED.fullmatch(name) is not None


def _stacks(checkpoint: Checkpoint, matrices: Mapping[str, _Description]) -> dict[str, list[str]]:
    """Return the names of stacked factors, each with the names of its parts in order."""
    counts: dict[str, int] = {}
    for name in matrices:
        if match := STACKED.fullmatch(name):
            counts[match[1]] = counts.get(match[1], 0) + 1
    stacks = {name: [f"{name}.{i}" for i in range(count)] for name, count in counts.items()}
    for name, parts in stacks.items():
        differ = any(matrices.get(part) != matrices.get(parts[0]) for part in parts)
        if differ or name in checkpoint:
            raise CheckpointError(
                f"{checkpoint.path}: the parts of {name[:80]} do not belong together; the file is "
                "damaged, quantize the original again"
            )
    return stacks


def _shape(name: str, matrix: _Description) -> tuple[int, int]:
    """Return the official shape of a matrix or low-rank factor."""
    if name.endswith(".weight"):
        return matrix.outputs, matrix.inputs
    return matrix.inputs, matrix.outputs
