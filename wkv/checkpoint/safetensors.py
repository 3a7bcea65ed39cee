"""Open files in safetensors format."""

from pathlib import Path
from typing import Any

import torch

from wkv.checkpoint.tensors import METADATA_KEYS, Checkpoint, unreadable
from wkv.errors import CheckpointError


def open_safetensors(path: Path) -> Checkpoint:
    """Open a safetensors file, memory-mapped.

    Raises:
        CheckpointError: if the file is damaged, or has a tensor of a dtype that wkv cannot read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        # Any: the library's type stub does not declare the handle's methods.
        handle: Any = safe_open(path, framework="pt")
        header = handle.metadata() or {}
        metadata = {key: text for key, text in header.items() if key in METADATA_KEYS}
        names = list(handle.keys())
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in names}
        codes = {name: handle.get_slice(name).get_dtype() for name in names}
    except (SafetensorError, OSError, KeyError, ValueError, MemoryError) as error:
        raise unreadable(path, error) from error
    for name, code in codes.items():
        if code not in _DTYPES:
            raise CheckpointError(
                f"{path}: {name} has the dtype {code}, which wkv cannot read; give the model in "
                "F32, F16 or BF16"
            )
    dtypes = {name: _DTYPES[code] for name, code in codes.items()}
    return Checkpoint(path, "safetensors", shapes, dtypes, handle.get_tensor, metadata)


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
