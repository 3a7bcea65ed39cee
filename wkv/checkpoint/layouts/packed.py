"""Files whose matrices are packed for the native engine, seen as official checkpoints.

`wkv quantize` writes them, as safetensors. A packed matrix is there under its official name as the
bytes that the engine reads, and the note `_wkv_packed` says what they mean:

    {"version": 1, "identity", "matrices": {NAME: {"format", "layout", "outputs", "inputs"}}}

`identity` is that of the model the file was made from; formats and layouts are named as in
`wkv.checkpoint.packing`. Low-rank factors, whose names do not end in `.weight`, are stored as
(inputs, outputs) in official files. Each factor of a stack (n, inputs, outputs) is stored on its
own, as `NAME.0` and so on. All other tensors are stored as in any checkpoint.

Here matrices have their official shapes and are float32, unpacked when they are asked for. Whoever
reads packed ones asks `Checkpoint.packed`, and gets what is mapped to the file.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.packing import VERSION, Format, Layout, Packed, packed_bytes, unpack
from wkv.checkpoint.tensors import first_sentence
from wkv.errors import CheckpointError

NOTE = "_wkv_packed"

FORMATS, LAYOUTS = ("int8", "int4"), ("blocks", "columns")

STACKED = re.compile(r"(.+)\.(\d{1,4})")

LARGEST = 2**31 - 1
"""The engine counts outputs and inputs with 32 bits."""


@dataclass(frozen=True)
class _Kind:
    """What a packed matrix is, without its bytes."""

    format: Format
    layout: Layout
    outputs: int
    inputs: int


def is_packed(checkpoint: Checkpoint) -> bool:
    """Whether the file says that it holds packed matrices."""
    return NOTE in checkpoint.notes


def note_of(matrices: Mapping[str, Packed], identity: str) -> str:
    """The note that describes packed matrices."""
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


def unpacked(checkpoint: Checkpoint) -> Checkpoint:
    """The file as an official checkpoint that knows what is packed.

    Raises:
        CheckpointError: if the note is damaged, of a later version, or does not fit the tensors.
    """
    identity, kinds = _read_note(checkpoint)
    stacks = _stacks(checkpoint, kinds)
    shapes = {name: shape for name, shape in checkpoint.shapes.items() if name not in kinds}
    shapes |= {name: _shape(name, kind) for name, kind in kinds.items() if not _is_part(name)}
    shapes |= {name: (len(parts), *_shape(name, kinds[parts[0]])) for name, parts in stacks.items()}
    made = {name for name in shapes if name in kinds or name in stacks}

    def packed(name: str) -> Packed | None:
        kind = kinds.get(name)
        if kind is None:
            return None
        return Packed(kind.format, kind.layout, kind.outputs, kind.inputs, checkpoint[name])

    def matrix(name: str) -> Tensor:
        found = packed(name)
        assert found is not None
        weights = unpack(found)
        return weights if name.endswith(".weight") else weights.t().contiguous()

    def read(name: str) -> Tensor:
        if name in stacks:
            return torch.stack([matrix(part) for part in stacks[name]])
        return matrix(name) if name in kinds else checkpoint[name]

    return replace(
        checkpoint,
        layout="packed",
        shapes=shapes,
        dtypes={
            name: torch.float32 if name in made else checkpoint.dtypes[name] for name in shapes
        },
        read=read,
        # By what the matrices are, whatever the file says it was made for.
        strategy="cpu int4" if any(k.format is Format.int4 for k in kinds.values()) else "cpu int8",
        packed=packed,
        identity=identity,
    )


def _read_note(checkpoint: Checkpoint) -> tuple[str, dict[str, _Kind]]:
    """The identity and the matrices that a note tells of, checked against the file's tensors."""
    try:
        note = json.loads(checkpoint.notes[NOTE])
        version, matrices = note["version"], note["matrices"].items()
        identity = str(note["identity"])[:32]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: the note that says how its matrices are packed cannot be read "
            f"({first_sentence(error)}); the file is damaged, quantize the original again"
        ) from error
    if version != VERSION:
        raise CheckpointError(
            f"{checkpoint.path}: its matrices are packed in a form of version {str(version)[:20]}, "
            f"and this wkv reads version {VERSION}; install a newer wkv, or quantize again"
        )
    return identity, {name: _kind(checkpoint, name, told) for name, told in matrices}


def _kind(checkpoint: Checkpoint, name: str, told: Any) -> _Kind:
    """What one matrix is, by what is told of it."""
    found: dict[str, Any] = told if isinstance(told, dict) else {}
    format, layout = found.get("format"), found.get("layout")
    outputs, inputs = found.get("outputs", 0), found.get("inputs", 0)
    if (
        format not in FORMATS
        or layout not in LAYOUTS
        or not all(type(size) is int and 0 < size <= LARGEST for size in (outputs, inputs))
    ):
        raise CheckpointError(
            f"{checkpoint.path}: {name[:80]} is packed as {str(told)[:120]}, expected one of "
            f"{', '.join(FORMATS)} in {' or '.join(LAYOUTS)} with outputs and inputs; the file is "
            "damaged or of another wkv, quantize the original again"
        )
    kind = _Kind(Format[format], Layout[layout], outputs, inputs)
    expected = packed_bytes(kind.format, kind.layout, kind.outputs, kind.inputs)
    if checkpoint.dtypes.get(name) != torch.uint8 or prod(checkpoint.shapes[name]) != expected:
        there = checkpoint.shapes.get(name)
        raise CheckpointError(
            f"{checkpoint.path}: {name[:80]} is said to be {format} of ({kind.outputs}, "
            f"{kind.inputs}), which are {expected} bytes; found "
            f"{'nothing' if there is None else f'{there} {checkpoint.dtypes[name]}'}; the file is "
            "damaged, quantize the original again"
        )
    return kind


def _is_part(name: str) -> bool:
    return STACKED.fullmatch(name) is not None


def _stacks(checkpoint: Checkpoint, kinds: Mapping[str, _Kind]) -> dict[str, list[str]]:
    """Names of stacks of factors, and of their parts in order."""
    counts: dict[str, int] = {}
    for name in kinds:
        if match := STACKED.fullmatch(name):
            counts[match[1]] = counts.get(match[1], 0) + 1
    stacks = {name: [f"{name}.{i}" for i in range(count)] for name, count in counts.items()}
    for name, parts in stacks.items():
        if any(kinds.get(part) != kinds.get(parts[0]) for part in parts) or name in checkpoint:
            raise CheckpointError(
                f"{checkpoint.path}: the parts of {name[:80]} do not belong together; the file is "
                "damaged, quantize the original again"
            )
    return stacks


def _shape(name: str, kind: _Kind) -> tuple[int, int]:
    """The official shape of a matrix or factor."""
    if name.endswith(".weight"):
        return kind.outputs, kind.inputs
    return kind.inputs, kind.outputs
