"""Open files in GGUF format, llama.cpp's, with the names and shapes that they have there.

`layouts.gguf` translates them to official ones. Quantized tensors are decoded to float32 when they
are read, so they have exactly the values that llama.cpp uses.
"""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wkv.checkpoint.blocks import FLOATS, SIZES, decode
from wkv.checkpoint.gguf_header import GGUFHeader, GGUFTensor, read_header
from wkv.checkpoint.tensors import Checkpoint
from wkv.errors import CheckpointError, MissingExtraError, install_command

LAYOUT = "gguf"


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file; its tensors are mapped from the file and decoded on access.

    `dtypes` are those of the decoded tensors. The fields that are numbers or texts become the
    checkpoint's metadata.

    Raises:
        CheckpointError: if the file is damaged, or has a type of tensors that wkv cannot read.
        MissingExtraError: when a tensor is read whose type only the gguf package can decode.
    """
    header = read_header(path)
    tensors = header.tensors
    fields = {
        key: str(value) for key, value in header.fields.items() if not isinstance(value, list)
    }
    kinds = {tensor.type.name for tensor in tensors.values() if len(tensor.shape) > 1}
    matrices = {
        tensor.type.name for name, tensor in tensors.items() if name.endswith("_key.weight")
    }
    return Checkpoint(
        path,
        LAYOUT,
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: FLOATS.get(tensor.type.name, torch.float32) for name, tensor in tensors.items()},
        partial(_read, header),
        fields,
        stored_types=tuple(sorted(kinds)),
        auto_dtypes=frozenset(FLOATS.get(name, torch.float16) for name in matrices) or None,
    )


def vocabulary_of(path: Path) -> tuple[list[str], list[int]] | None:
    """Return the tokens in a GGUF file, as text with escapes, and their types; None without any.

    The types are empty if the file has none.
    """
    fields = read_header(path).fields
    tokens, types = (fields.get(f"tokenizer.ggml.{name}", []) for name in ("tokens", "token_type"))
    if (
        fields.get("tokenizer.ggml.model") != "rwkv"
        or not _are(tokens, str)
        or not _are(types, int)
    ):
        return None
    return tokens, types


def _are(values: object, kind: type) -> bool:
    """Return whether a field is a list of values of a type."""
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _read(header: GGUFHeader, name: str) -> Tensor:
    """Return a tensor of the file."""
    tensor = header.tensors[name]
    try:
        # In this mode a change would go to memory, never to the file.
        data = np.memmap(header.path, np.uint8, "c", tensor.start, tensor.n_bytes)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{header.path}: {name} cannot be read ({error}); the file changed after it was opened"
        ) from error
    kind = tensor.type.name
    known = kind in FLOATS or kind in SIZES
    values = decode(kind, data) if known else _decode_with_package(tensor, data)
    return values.reshape(tensor.shape)


def _decode_with_package(tensor: GGUFTensor, data: np.ndarray) -> Tensor:
    """Decode any other type with the gguf package."""
    kind = tensor.type.name
    try:
        from gguf import GGMLQuantizationType, dequantize
    except ImportError as error:
        raise MissingExtraError(
            f"reading GGUF files with {kind} requires the gguf package, which is not installed; "
            f"run: {install_command('gguf')}"
        ) from error
    values = dequantize(
        np.asarray(data).reshape(-1, tensor.type.n_bytes), GGMLQuantizationType[kind]
    )
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
