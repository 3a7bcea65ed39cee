"""Files that torch.save wrote: `.pth`, `.bin`. Unpickled with weights_only, no way round it."""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint.tensors import EXPECTED, NOTES, Checkpoint, first_sentence
from wkv.errors import CheckpointError


def open_pth(path: Path) -> Checkpoint:
    """Open such a file; it is mapped, unless it has the form from before 2020.

    Raises:
        CheckpointError: if it is damaged, wants to run code, or holds more than tensors.
    """
    try:
        with path.open("rb") as file:
            mmap = file.read(4) == b"PK\x03\x04"
        content = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unpickling_advice(path, str(error))) from error
    except Exception as error:  # a damaged pickle makes the unpickler raise errors of any kind
        raise CheckpointError(
            f"{path}: the file is truncated or damaged ({first_sentence(error)}); {EXPECTED}; "
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
    tensors: dict[str, Tensor] = {str(name): value.detach() for name, value in content.items()}
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
