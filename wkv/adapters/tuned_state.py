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
from wkv.files import atomic_write, checked_destination
from wkv.models.parts import Config
from wkv.models.state import State

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


def read_tuned_state(path: str | Path, config: Config) -> TunedState | None:
    """Read a tuned state for a model of a given size.

    Returns:
        The state, or None if the file is not readable or contains something else.

    Raises:
        StateError: if it belongs to a model of another size or generation, its axes are
            ambiguous, or it contains unknown tensors or values that are not finite.
    """
    try:
        file = official(open_checkpoint(path))
    except CheckpointError:
        return None
    if not _is_tuned(file):
        return None
    if config.n_head is None:
        raise StateError(
            f"{file.path}: this is a tuned state with a matrix for each head, and RWKV-4 has no "
            "heads; use the model that it was tuned for"
        )
    return _read_metal(file, config) if set(file) == METAL else _read_time_states(file, config)


def _is_tuned(file: Checkpoint) -> bool:
    return set(file) == METAL or (
        any(NAME.fullmatch(name) for name in file) and "emb.weight" not in file
    )


def _read_time_states(file: Checkpoint, config: Config) -> TunedState:
    """Read a file of `blocks.N.att.time_state`."""
    shape = (config.n_head, config.head_size, config.head_size)
    names = [f"blocks.{layer}.att.time_state" for layer in range(config.n_layer)]
    found = [name for name in file if NAME.fullmatch(name)]
    for name in file:
        if SHIFT_NAME.fullmatch(name):
            _refuse_shift(file, name)
        elif name not in found:
            raise StateError(
                f"{file.path}: {name} does not belong to a tuned state, expected only "
                "blocks.N.att.time_state; to use an adapter or a model, pass it as such"
            )
    wrong = next((name for name in found if file.shapes[name] != shape), None)
    if set(found) != set(names) or wrong is not None:
        raise _other_size(file, len(found), file.shapes[wrong or found[0]], config)
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


def _read_metal(file: Checkpoint, config: Config) -> TunedState:
    """Read a file of rwkv-metal."""
    layers, width, size = config.n_layer, config.n_embd, config.head_size
    expected = {
        "wkv": (layers, 1, config.n_head, size, size),
        "tmix_shift": (layers, 1, 1, width),
        "cmix_shift": (layers, 1, 1, width),
    }
    if file.shapes != expected or not config.generation.startswith("7"):
        shape = file.shapes["wkv"]
        raise _other_size(file, shape[0] if shape else 0, shape[2:], config, generation="7")
    shifts = torch.stack([_values(file, name)[:, 0, 0] for name in ("tmix_shift", "cmix_shift")])
    return TunedState(_values(file, "wkv")[:, 0], shifts)


def _other_size(
    file: Checkpoint, layers: int, shape: tuple[int, ...], config: Config, generation: str = ""
) -> StateError:
    """Return the error for a state that was tuned for another model."""
    size = config.head_size
    of = f" of RWKV-{generation}" if generation else ""
    return StateError(
        f"{file.path}: this tuned state{of} has {layers} layers of {shape}, and the model, "
        f"RWKV-{config.generation}, needs {config.n_layer} layers of {config.n_head, size, size}; "
        "use the model that it was tuned for"
    )


def _values(file: Checkpoint, name: str) -> Tensor:
    """Return a tensor as float32, after checking its dtype and values."""
    return float_values(file.path, name, file[name], StateError)


def write_tuned_state(state: State, path: str | Path, to: str = "pth-state") -> Path:
    """Write the matrices of a state for another program.

    Args:
        state: one row, with zero shifts: no other program has a name for them.
        path: the file to write; its extension is added if it is missing.
        to: "pth-state" for RWKV-PEFT, RWKV-LM and RWKV-Runner, in float32 with axes (value, key),
            as `.pth`; "ai00-state" for web-rwkv and ai00, in half precision with axes (key,
            value), as `.state` or `.st`.

    Returns:
        The path of the file.

    Raises:
        StateError: if the state is not one row, has shifts, belongs to RWKV-4, or has values
            that half precision cannot represent.
        InputError: if the path cannot be created.
    """
    from safetensors.torch import save_file

    endings = {"pth-state": (".pth",), "ai00-state": (".state", ".st")}
    if to not in endings:
        raise StateError(f"a state can be written as {' or '.join(endings)}, not as {to!r}")
    tensors = state_tensors(state)
    target = checked_destination(path)
    if target.suffix not in endings[to]:
        target = target.with_name(target.name + endings[to][0])
    if to == "pth-state":
        atomic_write(target, lambda file: torch.save(tensors, file), error_type=StateError)
        return target
    halves = {name: wkv.transpose(-1, -2).half().contiguous() for name, wkv in tensors.items()}
    large = [name for name, wkv in halves.items() if not bool(wkv.isfinite().all())]
    if large:
        raise StateError(
            f"{large[0]} has values beyond {torch.finfo(torch.float16).max:g}, the largest number "
            "of half precision; write it as pth-state"
        )
    atomic_write(target, lambda file: save_file(halves, file), error_type=StateError)
    return target


def state_tensors(state: State) -> dict[str, Tensor]:
    """Return the matrices of a state by RWKV-PEFT's names, after checking that nothing is lost.

    Raises:
        StateError: if the state is not one row, has shifts, or belongs to RWKV-4.
    """
    layers = state.layers
    if state.batch_size != 1 or layers[0].wkv.dim() != 4:
        raise StateError(
            f"{state!r} cannot be written for other programs; expected one row of a model of "
            "generation 5 to 7"
        )
    if any(bool(shift.any()) for one in layers for shift in (one.att_shift, one.ffn_shift)):
        raise StateError(
            "the state has token shifts, because it has seen tokens, and other programs cannot "
            "read them; save it with state.save, or write a tuned state"
        )
    return {
        f"blocks.{number}.att.time_state": layer.wkv[0].detach().cpu().float().contiguous()
        for number, layer in enumerate(layers)
    }
