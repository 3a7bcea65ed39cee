"""The layout of rwkv.cpp's files: official names, with some values and shapes prepared for it.

    generation  stored                                                       official
    4           time_decay = -exp(w)                                         w
    5.0         time_decay = exp(-exp(w)), time_first = exp(u), (H, 1, 1)    w, u (H,)
    5.1, 5.2    time_decay = exp(-exp(w)), (H, n, 1); time_faaaa (H, n, 1)   w, u (H, n)
    6           time_decay, time_faaaa with an axis more; low-rank factors   as before the
                transposed                                                   conversion
    7           x_r, x_w, x_k, x_v, x_a, x_g in one x_rwkvag; low-rank       likewise
                factors transposed

Logarithms are computed in float64.
Source: rwkv.cpp, python/convert_pytorch_to_ggml.py.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from math import prod

from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.view import Transform, View, unchanged, view_of

SHIFTS = "rwkvag"
"""The order of the token shifts in `x_rwkvag`."""

FACTORS = {
    "6": re.compile(r".*\.(time_maa_w[12]|time_decay_w[12])"),
    "7": re.compile(r".*\.att\.[wavg][12]"),
}
"""Low-rank factors, whose last two axes are exchanged."""

Shape = tuple[int, ...]


def rwkvcpp_to_official(checkpoint: Checkpoint) -> Checkpoint:
    """View a file of rwkv.cpp as an official checkpoint."""
    generation = _generation(checkpoint)
    views = dict[str, View]()
    for name, shape in checkpoint.shapes.items():
        views |= dict(_views(generation, name, shape))
    return view_of(checkpoint, views)


def _generation(checkpoint: Checkpoint) -> str:
    """Return the generation by the names, as rwkv.cpp does: "4", "5.0", "5", "6" or "7"."""
    prefix = "blocks.0.att."
    for name, generation in (("r_k", "7"), ("time_maa_x", "6"), ("gate.weight", "5")):
        if prefix + name in checkpoint:
            return generation
    return "5.0" if prefix + "ln_x.weight" in checkpoint else "4"


def _views(generation: str, name: str, shape: Shape) -> Iterator[tuple[str, View]]:
    """Yield the official names of a tensor, and how each is made."""
    if name.endswith(".att.x_rwkvag"):
        for number, letter in enumerate(SHIFTS):
            row = View(name, (1, 1, shape[-1]), partial(_row, number=number))
            yield f"{name.removesuffix('rwkvag')}{letter}", row
        return
    factor = FACTORS.get(generation)
    if factor is not None and factor.fullmatch(name) and len(shape) > 1:
        yield name, View(name, (*shape[:-2], shape[-1], shape[-2]), _transposed)
        return
    official, transform = _vector(generation, name, shape)
    yield name, View(name, official, transform)


def _vector(generation: str, name: str, shape: Shape) -> tuple[Shape, Transform]:
    """Return the official shape of any other tensor, and how its values are made."""
    ending = name.rpartition(".")[2]
    inverse: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
        ("4", "time_decay"): _log_of_negative,
        ("5.0", "time_decay"): _log_of_log,
        ("5.0", "time_first"): _log,
        ("5", "time_decay"): _log_of_log,
    }
    transform = inverse.get((generation, ending), unchanged)
    if generation == "5.0" and ending in ("time_decay", "time_first"):
        return (prod(shape),), transform
    if generation == "5" and ending in ("time_decay", "time_faaaa"):
        heads = shape[:2] if len(shape) > 2 else shape
        return (heads[0],) if heads[1:] == (1,) else heads, transform
    if generation == "6" and ending == "time_faaaa":
        return shape[:2], transform
    if ending.startswith(("time_mix_", "time_maa_")) or (generation, ending) == ("6", "time_decay"):
        return (1, 1, prod(shape)), transform
    return shape, transform


def _log_of_negative(values: Tensor) -> Tensor:
    return values.double().neg().log().float()


def _log_of_log(values: Tensor) -> Tensor:
    return values.double().log().neg().log().float()


def _log(values: Tensor) -> Tensor:
    return values.double().log().float()


def _transposed(factor: Tensor) -> Tensor:
    return factor.transpose(-1, -2)


def _row(stack: Tensor, number: int) -> Tensor:
    return stack[number]
