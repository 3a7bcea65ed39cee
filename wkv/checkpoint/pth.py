"""Open files that torch.save wrote (`.pth`, `.bin`). They are always read with weights_only."""

import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from wkv.checkpoint.tensors import EXPECTED, METADATA_KEYS, Checkpoint, unreadable
from wkv.errors import CheckpointError


def open_pth(path: Path) -> Checkpoint:
    """Open a file that torch.save wrote; it is memory-mapped unless it is older than 2020.

    Raises:
        CheckpointError: if the file is damaged, would run code, or contains more than tensors.
    """
    try:
        with path.open("rb") as file:
            mmap = file.read(4) == b"PK\x03\x04"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other versions of pickle, for programmers
            content = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unpickling_advice(path, str(error))) from error
    except Exception as error:  # for a damaged pickle the unpickler can raise any type of error
        _refuse_other_archives(path)
        raise unreadable(path, error) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: the file contains a {type(content).__name__}, expected a dict of tensors by "
            "name; save the model's state_dict()"
        )
    metadata = {
        key: str(content.pop(key))
        for key in METADATA_KEYS
        if isinstance(content.get(key), (str, int))
    }
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(
            f"{path}: {str(others[0])!r} has the type {type(content[others[0]]).__name__}, "
            "expected only tensors by name; save the model's state_dict() alone"
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
        metadata,
    )


def _refuse_other_archives(path: Path) -> None:
    """Refuse a ZIP file that torch.save did not write; another download would be the same.

    Raises:
        CheckpointError: if it is one.
    """
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith("data.pkl") for name in names):
            found = f"contains {names[0]}" if names else "is empty"
            raise CheckpointError(
                f"{path}: this is a ZIP file without a PyTorch checkpoint (it {found}); "
                f"{EXPECTED}; if a model is in it, unpack it and give the model"
            )


def _unpickling_advice(path: Path, message: str) -> str:
    """Explain why weights_only refused a file."""
    culprit = re.search(r"GLOBAL (\S+)", message)
    if culprit is not None:
        return (
            f"{path}: the file wants to run code when it is opened (it names {culprit[1]}), which "
            "a checkpoint never needs and wkv never allows; get the model from a source you trust"
        )
    # The library's own message is dropped because it recommends turning weights_only off.
    return f"{path}: the file is damaged or contains more than tensors; {EXPECTED}; fetch it again"
