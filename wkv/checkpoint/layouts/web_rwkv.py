"""The layout of web-rwkv and ai00 (`.st` files): half precision, other names, transposed factors.

    5.1, 5.2   time_faaaa is called time_first
    6          also, time_maa_* is called time_mix_*, and low-rank factors are transposed
    7          low-rank factors are transposed
    all        the last two axes of tuned states are swapped

Files of RWKV-4 and 5.0 have official names and shapes. In files of 5.1, decay and bonus of a head
are repeated for each of its channels, so they are read as 5.2, with the same results.

Some converters forget to transpose the factors, and official files of RWKV-7 have the same names.
So the shapes decide, in all factors at once. If every factor is square, the names decide, and for
RWKV-7 the extension `.st`.

Source: web-rwkv, convert_safetensors.py and crates/web-rwkv-converter.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.view import View, unchanged, view_of

EXTENSION = ".st"

FACTOR = re.compile(r"blocks\.\d+\.att\.([wavg]|time_mix_w|time_decay_w)(?P<number>[12])")
"""Low-rank factors. Official files store number 1 as (D, R) and number 2 as (R, A)."""

SWAPPED = re.compile(r"blocks\.\d+\.att\.time_state")

RENAMED = (
    (re.compile(r"(blocks\.\d+\.(?:att|ffn)\.)time_mix_(\w+)"), r"\1time_maa_\2"),
    (re.compile(r"(blocks\.\d+\.att\.)time_first"), r"\1time_faaaa"),
)


def is_web_rwkv(checkpoint: Checkpoint) -> bool:
    """Check whether the names or shapes of a checkpoint are those of this layout."""
    if not {"emb.weight", "blocks.0.att.key.weight"} <= checkpoint.keys():
        return False
    if "blocks.0.att.r_k" in checkpoint:
        return _is_transposed(checkpoint)
    return _is_six(checkpoint) or (
        "blocks.0.att.gate.weight" in checkpoint and "blocks.0.att.time_first" in checkpoint
    )


def web_rwkv_to_official(checkpoint: Checkpoint) -> Checkpoint:
    """View a file of web-rwkv as an official checkpoint."""
    names = {name: name for name in checkpoint}
    if "blocks.0.att.r_k" not in checkpoint:
        rules = RENAMED if _is_six(checkpoint) else RENAMED[1:]
        for pattern, official in rules:
            names = {name: pattern.sub(official, new) for name, new in names.items()}
    transposes = _is_transposed(checkpoint)
    views = {}
    for name, shape in checkpoint.shapes.items():
        is_factor = transposes and FACTOR.fullmatch(name)
        if (is_factor or SWAPPED.fullmatch(name)) and len(shape) > 1:
            views[names[name]] = View(name, (*shape[:-2], shape[-1], shape[-2]), _transposed)
        else:
            views[names[name]] = View(name, shape, unchanged)
    return view_of(checkpoint, views)


def _is_six(checkpoint: Mapping[str, Tensor]) -> bool:
    """Check for a name that RWKV-6 has in this layout only."""
    return "blocks.0.att.time_mix_w1" in checkpoint


def _is_transposed(checkpoint: Checkpoint) -> bool:
    """Check whether low-rank factors are transposed, by those that are not square."""
    # The axis of factor 1 that is not a rank has the size D, that of factor 2 the size A.
    sizes = {
        "1": checkpoint.shapes["emb.weight"][-1],
        "2": checkpoint.shapes["blocks.0.att.key.weight"][0],
    }
    for name, shape in checkpoint.shapes.items():
        factor = FACTOR.fullmatch(name)
        if factor is None or len(shape) < 2 or shape[-1] == shape[-2]:
            continue
        official, other = (-2, -1) if factor["number"] == "1" else (-1, -2)
        if sizes[factor["number"]] in (shape[official], shape[other]):
            return shape[other] == sizes[factor["number"]]
    return _is_six(checkpoint) or checkpoint.path.suffix == EXTENSION


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(-1, -2)
