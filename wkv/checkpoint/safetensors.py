"""Files in safetensors' form."""

from pathlib import Path
from typing import Any

import torch

from wkv.checkpoint.tensors import EXPECTED, NOTES, Checkpoint, first_sentence
from wkv.errors import CheckpointError


def open_safetensors(path: Path) -> Checkpoint:
    """Open such a file, mapped.

    Raises:
        CheckpointError: if it is damaged, or holds numbers of a kind that wkv cannot read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # Any: the library's type stub does not declare the handle's methods.
        handle: Any = safe_open(path, framework="pt")
        notes = {name: text for name, text in (handle.metadata() or {}).items() if name in NOTES}
        names = list(handle.keys())
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in names}
        kinds = {name: handle.get_slice(name).get_dtype() for name in names}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the file is truncated or damaged ({first_sentence(error)}); {EXPECTED}; "
            "fetch the file again"
        ) from error
    for name, kind in kinds.items():
        if kind not in _DTYPES:
            raise CheckpointError(
                f"{path}: {name} is of type {kind}, which wkv cannot read; give the model in F32, "
                "F16 or BF16"
            )
    dtypes = {name: _DTYPES[kind] for name, kind in kinds.items()}
    return Checkpoint(path, "safetensors", shapes, dtypes, handle.get_tensor, notes)


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
