"""Read and write tuned initial states, which start the recurrence of every layer.

    RWKV-PEFT, RWKV-LM, RWKV-Runner   torch files of `blocks.N.att.time_state`, (H, value, key)
    web-rwkv, ai00                    `.st` and `.state` in safetensors format with the same names
                                      in half precision, (H, key, value)
    rwkv-metal                        safetensors with `wkv` (L, 1, H, value, key), `tmix_shift`
                                      and `cmix_shift` (L, 1, 1, D); generation 7 only

The matrices are square, so transposed axes cannot be detected by their shapes. The format of the
file and its extension decide; where they do not, the file is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.values import float_values
from wkv.checkpoint import Checkpoint, open_checkpoint
from wkv.checkpoint.layouts import official
from wkv.errors import CheckpointError, StateError
from wkv.models.parts import Config
from wkv.models.state import read_header

NAME = re.compile(r"blocks\.(\d+)\.att\.time_state")
SHIFT_NAME = re.compile(r"blocks\.\d+\.att\.ts_state")
SWAPPED_ENDINGS = (".st", ".state")
"""Extensions of web-rwkv's files, in which the last two axes are swapped."""

METAL = frozenset({"wkv", "tmix_shift", "cmix_shift"})
"""The names of rwkv-metal's tensors; each has the layers as its first axis."""


@dataclass(frozen=True)
class TunedState:
    """The tensors of a tuned state.

    Attributes:
        wkv: (L, H, N, N) float32 with axes (value, key).
        shifts: (2, L, D) float32, the inputs of time mix and channel mix before the first token;
            None means zero.
    """

    wkv: Tensor
    shifts: Tensor | None = None


def is_tuned_state(path: str | Path) -> bool:
    """Check whether a file contains a tuned state and no model; unreadable files do not."""
    try:
        return _is_tuned(official(open_checkpoint(path)))
    except CheckpointError:
        return False


def is_state(path: str | Path) -> bool:
    """Check whether a file is a tuned state of another program, or a state of wkv."""
    try:
        return bool(read_header(path).generation)
    except StateError:
        return is_tuned_state(path)


def read_tuned_state(path: str | Path, config: Config) -> TunedState | None:
    """Read a tuned state for a model of a given size.

    Returns:
        The state, or None if the file is not readable or contains something else.

    Raises:
        StateError: if it belongs to a model of another size or generation, its axes are
            ambiguous, or it contains unknown tensors or values that are not finite.
    """
    tuned = open_tuned_state(path)
    if tuned is None:
        return None
    if config.n_head is None:
        raise StateError(
            f"{path}: this is a tuned state with a matrix for each head, and RWKV-4 has no "
            "heads; use the model that it was tuned for"
        )
    size = config.head_size
    layers, *shape = tuned.wkv.shape
    is_metal = tuned.shifts is not None
    if (layers, *shape) != (config.n_layer, config.n_head, size, size) or (
        is_metal and not config.generation.startswith("7")
    ):
        of = " of RWKV-7" if is_metal else ""
        raise StateError(
            f"{path}: this tuned state{of} has {layers} layers of {tuple(shape)}, and the model, "
            f"RWKV-{config.generation}, needs {config.n_layer} layers of "
            f"{config.n_head, size, size}; use the model that it was tuned for"
        )
    return tuned


def open_tuned_state(path: str | Path) -> TunedState | None:
    """Read a tuned state for a model of any size.

    Returns:
        The state, or None if the file is not readable or contains something else.

    Raises:
        StateError: if layers are missing or differ in shape, its axes are ambiguous, or it
            contains unknown tensors or values that are not finite.
    """
    try:
        file = official(open_checkpoint(path))
    except CheckpointError:
        return None
    if not _is_tuned(file):
        return None
    return _read_metal(file) if set(file) == METAL else _read_time_states(file)


def _is_tuned(file: Checkpoint) -> bool:
    return set(file) == METAL or (
        any(NAME.fullmatch(name) for name in file) and "emb.weight" not in file
    )


def _read_time_states(file: Checkpoint) -> TunedState:
    """Read a file of `blocks.N.att.time_state`."""
    found = [name for name in file if NAME.fullmatch(name)]
    for name in file:
        if SHIFT_NAME.fullmatch(name):
            _refuse_shift(file, name)
        elif name not in found:
            raise StateError(
                f"{file.path}: {name} does not belong to a tuned state, expected only "
                "blocks.N.att.time_state; to use an adapter or a model, pass it as such"
            )
    names = [f"blocks.{layer}.att.time_state" for layer in range(len(found))]
    missing = next((name for name in names if name not in found), None)
    if missing is not None:
        raise _damaged(file, f"{len(found)} tensors but no {missing}")
    shape = file.shapes[names[0]]
    wrong = next((name for name in names if file.shapes[name] != shape), None)
    if wrong is not None or len(shape) != 3 or shape[1] != shape[2]:
        name = wrong or names[0]
        raise _damaged(file, f"{name} of the shape {file.shapes[name]}, the first has {shape}")
    swaps = file.layout == "safetensors" and _is_swapped(file)
    layers = torch.stack([_values(file, name) for name in names])
    return TunedState(layers.transpose(-1, -2).contiguous() if swaps else layers)


def _is_swapped(file: Checkpoint) -> bool:
    """Return whether a safetensors file was written by web-rwkv's converter.

    Raises:
        StateError: if the extension and the dtype contradict each other.
    """
    if file.path.suffix in SWAPPED_ENDINGS:
        return True
    if torch.float16 in file.dtypes.values():
        raise StateError(
            f"{file.path}: the order of axes is unknown; half precision is usual for web-rwkv and "
            "ai00, which swap them, but their files end in .st or .state; rename the file if one "
            "of them wrote it, otherwise give the .pth file that it was made from"
        )
    return False


def _refuse_shift(file: Checkpoint, name: str) -> None:
    """Accept the shifts of RWKV-PEFT's "fullstate" only if they are zero."""
    if bool(_values(file, name).any()):
        raise StateError(
            f"{file.path}: {name} is a tuned token shift, which wkv cannot use; tune the state "
            "without it (in RWKV-PEFT: state instead of fullstate)"
        )


def _read_metal(file: Checkpoint) -> TunedState:
    """Read a file of rwkv-metal."""
    shape = file.shapes["wkv"]
    layers, one, heads, size = shape[:4] if len(shape) == 5 else (0, 0, 0, 0)
    width = (layers, 1, 1, heads * size)
    if one != 1 or file.shapes != {
        "wkv": (layers, 1, heads, size, size),
        "tmix_shift": width,
        "cmix_shift": width,
    }:
        raise _damaged(file, f"wkv of the shape {shape}, with shifts of other sizes")
    shifts = torch.stack([_values(file, name)[:, 0, 0] for name in ("tmix_shift", "cmix_shift")])
    return TunedState(_values(file, "wkv")[:, 0], shifts)


def _damaged(file: Checkpoint, found: str) -> StateError:
    """Return the error for a file whose tensors do not fit each other."""
    return StateError(
        f"{file.path}: the tuned state has {found}; expected one (heads, size, size) for every "
        "layer, so the file is incomplete, save it again"
    )


def _values(file: Checkpoint, name: str) -> Tensor:
    """Return a tensor as float32, after checking its dtype and values."""
    return float_values(file.path, name, file[name], StateError)
