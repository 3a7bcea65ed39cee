"""Write tuned states for other programs; `wkv.adapters.tuned_state` reads them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wkv.adapters.tuned_state import TunedState
from wkv.errors import StateError
from wkv.files import atomic_write, checked_destination
from wkv.models.state import State

ENDINGS = {"pth-state": (".pth",), "ai00-state": (".state", ".st")}
"""The extensions of the formats; a path without one gets the first."""


def write_tuned_state(
    tensors: Mapping[str, Tensor], path: str | Path, to: str = "pth-state"
) -> Path:
    """Write the tensors of a tuned state for another program.

    Args:
        tensors: `blocks.N.att.time_state` to (H, N, N) float32 with axes (value, key).
        path: the file to write; its extension is added if it is missing.
        to: "pth-state" for RWKV-PEFT, RWKV-LM and RWKV-Runner, in float32 with axes (value, key),
            as `.pth`; "ai00-state" for web-rwkv and ai00, in half precision with axes (key,
            value), as `.state` or `.st`.

    Returns:
        The path of the file.

    Raises:
        StateError: if half precision cannot represent a value, or the file cannot be written.
        InputError: if the path cannot be created.
    """
    from safetensors.torch import save_file

    target = state_path(path, to)
    if to == "pth-state":
        atomic_write(target, lambda file: torch.save(dict(tensors), file), error_type=StateError)
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


def state_path(path: str | Path, to: str) -> Path:
    """Return the path of a tuned state with the extension of its format.

    Raises:
        StateError: if the format is unknown.
        InputError: if the path cannot be created.
    """
    if to not in ENDINGS:
        raise StateError(f"a state can be written as {' or '.join(ENDINGS)}, not as {to!r}")
    target = checked_destination(path)
    if target.suffix in ENDINGS[to]:
        return target
    return target.with_name(target.name + ENDINGS[to][0])


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
    shifts = [shift for one in layers for shift in (one.att_shift, one.ffn_shift)]
    return tuned_tensors(TunedState(torch.cat([one.wkv for one in layers]), torch.stack(shifts)))


def tuned_tensors(tuned: TunedState) -> dict[str, Tensor]:
    """Return the matrices of a tuned state by RWKV-PEFT's names.

    Raises:
        StateError: if it has shifts, for which other programs have no name.
    """
    if tuned.shifts is not None and bool(tuned.shifts.any()):
        raise StateError(
            "the state has token shifts, because it has seen tokens, and other programs cannot "
            "read them; save it with state.save, or write a tuned state"
        )
    return {
        f"blocks.{number}.att.time_state": wkv.detach().cpu().float().clone()
        for number, wkv in enumerate(tuned.wkv)
    }
