"""Opens a file of tensors, `.pth` or `.safetensors`, without reading the tensors themselves.

Tensors are memory-mapped: a tensor's bytes are read when it is used. Nothing in a file is ever
executed: `.pth` files are unpickled with weights_only, with no way round it. This module has no
idea what the tensors mean.
"""

import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wkv.errors import CheckpointError

EXPECTED = "expected a .pth or .safetensors checkpoint"
NOTES = ("_strategy", "_version", "_rescale_layer", "_wkv_strategy")
"""Names under which a converted file says what it is; the first three are ChatRWKV's."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Checkpoint(Mapping[str, Tensor]):
    """The tensors of a file, by name; each is mapped when it is asked for.

    Attributes:
        path: the file that was opened.
        layout: "pth" or "safetensors".
        shapes: name to shape of every tensor.
        dtypes: name to dtype of every tensor.
        notes: what a file that was made for a strategy says of itself, by name.
        strategy: the one it was made for; None if it was not.
    """

    path: Path
    layout: str
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)
    strategy: str | None = None

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name."""
        if name not in self.shapes:
            raise KeyError(name)
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        """Names, in the order of the file."""
        return iter(self.shapes)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.shapes)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint: `.pth`, `.safetensors`, or the `.safetensors.index.json` of a sharded one.

    The content decides, not the ending. A missing ending `.pth` or `.safetensors` is added.

    Raises:
        CheckpointError: one sentence about what was found, what was expected, what to do.
    """
    try:
        path = _find(Path(path).expanduser())
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)[:200]} cannot be opened ({_first_sentence(error)}); {EXPECTED}"
        ) from error
    if path.name.endswith(".safetensors.index.json"):
        return _open_sharded(path)
    index = _index_of_shard(path)
    if index is not None:
        return _open_sharded(index)
    if head[:4] == b"PK\x03\x04":
        return _open_pth(path)
    if len(head) > 8 and head[8:9] == b"{":
        return _open_safetensors(path)
    if head[:1] == b"\x80":  # a pickle: the form torch.save had before 2020
        return _open_pth(path, mmap=False)
    raise CheckpointError(f"{path}: {_what_is(head)}; {EXPECTED}; fetch the file again")


def _find(path: Path) -> Path:
    """The file that is meant, or an error that says why there is none."""
    for candidate in (path, Path(f"{path}.pth"), Path(f"{path}.safetensors")):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.pth"))
        inside += sorted(file.name for file in path.glob("*.safetensors"))
        advice = f"give a file in it, such as {path / inside[0]}" if inside else "give a file"
        raise CheckpointError(
            f"{path}: this is a directory; {EXPECTED} (Hugging Face directories are not "
            f"supported yet); {advice}"
        )
    hub = len(path.parts) == 2 and not path.parent.is_dir()
    advice = "hub names are not supported yet, download the file" if hub else "check the path"
    raise CheckpointError(f"{path}: there is no such file; {EXPECTED}; {advice}")


def _what_is(head: bytes) -> str:
    """What the first bytes of a file that is no checkpoint tell."""
    if not head:
        return "the file is empty"
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-lfs pointer, the model itself was not fetched (run: git lfs pull)"
    if head[:4] in (b"fmgg", b"lmgg", b"tjgg"):
        return "this is an rwkv.cpp file"
    if head[:4] == b"GGUF":
        return "this is a GGUF file"
    try:
        text = head.decode("utf-8", "strict" if len(head) < 500 else "ignore")
    except UnicodeDecodeError:
        text = "\0"
    if text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"this is text (it begins with {' '.join(text.split())[:40]!r})"
    return f"the file begins with the bytes {head[:8].hex(' ')}, which is neither form"


def _open_pth(path: Path, mmap: bool = True) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unpickling_advice(path, str(error))) from error
    except Exception as error:  # a damaged pickle makes the unpickler raise errors of any kind
        raise CheckpointError(
            f"{path}: the file is truncated or damaged ({_first_sentence(error)}); {EXPECTED}; "
            "fetch the file again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: the file holds a {type(content).__name__}, expected a dict of name to "
            "tensor; save the model's state_dict()"
        )
    notes = {name: str(content.pop(name)) for name in NOTES if _is_note(content.get(name))}
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path}: {str(others[0])!r} is a {type(content[others[0]]).__name__}, expected only "
            "tensors by name; save the model's state_dict() alone"
        )
    tensors: dict[str, Tensor] = {str(name): value for name, value in content.items()}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(
                f"{path}: {name} is a {tensor.layout} tensor on {tensor.device}, expected plain "
                "tensors with values; save the model's state_dict() again"
            )
    return Checkpoint(
        path,
        "pth",
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: tensor.dtype for name, tensor in tensors.items()},
        tensors.__getitem__,
        notes,
    )


def _is_note(value: object) -> bool:
    return isinstance(value, (str, int))


def _unpickling_advice(path: Path, message: str) -> str:
    """Why weights_only refused a file."""
    culprit = re.search(r"GLOBAL (\S+)", message)
    if culprit is not None:
        return (
            f"{path}: the file wants to run code when it is opened (it names {culprit[1]}), which "
            "a checkpoint never needs and wkv never allows; get the model from a source you trust"
        )
    # The library's own message advises to switch the protection off: it is not passed on.
    return f"{path}: the file is damaged or holds more than tensors; {EXPECTED}; fetch it again"


def _open_safetensors(path: Path) -> Checkpoint:
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
            f"{path}: the file is truncated or damaged ({_first_sentence(error)}); {EXPECTED}; "
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


def _index_of_shard(path: Path) -> Path | None:
    """The index beside `model-00001-of-00002.safetensors`, if the path is such a shard."""
    stem, marker, _ = path.name.rpartition("-of-")
    if not marker or path.suffix != ".safetensors":
        return None
    index = path.with_name(stem.rsplit("-", 1)[0] + ".safetensors.index.json")
    if not index.is_file():
        raise CheckpointError(
            f"{path}: this is one shard of several and the index {index.name} is not beside it; "
            "fetch the index and all shards"
        )
    return index


def _open_sharded(index: Path) -> Checkpoint:
    """A checkpoint in several safetensors files, by its index."""
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        file_of = {str(name): str(file) for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: the index cannot be read ({_first_sentence(error)}), expected a JSON object "
            "with a weight_map; fetch it again"
        ) from error
    shards = {}
    for file in sorted(set(file_of.values())):
        if Path(file).name != file:
            raise CheckpointError(f"{index}: the index names {file!r}, which is outside its folder")
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index}: the shard {file} is not beside it; fetch it as well")
        shards[file] = _open_safetensors(index.parent / file)
    for name, file in file_of.items():
        if name not in shards[file]:
            raise CheckpointError(
                f"{index}: the tensor {name} is not in {file}; index and shards do not belong "
                "together, fetch them again"
            )
    return Checkpoint(
        index,
        "safetensors",
        {name: shards[file].shapes[name] for name, file in file_of.items()},
        {name: shards[file].dtypes[name] for name, file in file_of.items()},
        lambda name: shards[file_of[name]][name],
    )


def _first_sentence(error: object) -> str:
    """The first sentence of a message; libraries go on with advice that does not fit here."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")[:160]
