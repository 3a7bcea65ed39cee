"""The steps of a plan, as structs that the native library reads.

`source/steps.h` declares the same structs; change both files together. Every field is a number: an
index of a buffer, inputs, vector or matrix (`NONE` if absent), or a size. `open_library` compares
the sizes of the structs with those of the library.
"""

import ctypes
from ctypes import c_float, c_int32
from enum import IntEnum
from typing import Any, ClassVar

NONE = -1
"""The index of an optional operand that is absent."""

MAX_MIXES = 8
"""The number of mixes that one token shift can compute."""

X_BUFFER, LOGITS_BUFFER = 0, 1
"""Buffers that belong to the caller of a run."""


class Kind(IntEnum):
    """Kinds of steps."""

    norm = 0
    shift = 1
    mix = 2
    activate = 3
    product = 4
    gated = 5
    wkv4 = 6
    wkv6 = 7  # also RWKV-5
    wkv7 = 8
    adapter = 9


class Function(IntEnum):
    """Functions that `Activate` applies to its input."""

    identity = 0
    tanh = 1
    sigmoid = 2
    squared_relu = 3


class StatePart(IntEnum):
    """Parts of a layer's state."""

    att_shift = 0
    wkv = 1
    ffn_shift = 2


class StepList(IntEnum):
    """The two step lists of a plan: the layers, and the output head."""

    body = 0
    head = 1


class StepStruct(ctypes.Structure):
    """Base of the structs; `kind` selects the struct in the library."""

    kind: ClassVar[Kind]

    @classmethod
    def field_names(cls) -> set[str]:
        """Return the names of the fields."""
        return {field[0] for field in cls._fields_}


def _int32(*names: str) -> list[tuple[str, Any]]:
    return [(name, c_int32) for name in names]


class Norm(StepStruct):
    """y = LN(x)."""

    kind = Kind.norm
    _fields_ = [*_int32("x", "y", "weight", "bias"), ("eps", c_float)]


class Shift(StepStruct):
    """inputs[i] = n + (previous n - n) share[i], with n = LN(x).

    `normed` and `difference` are optional outputs for n and previous n - n.
    """

    kind = Kind.shift
    _fields_ = [
        *_int32("x", "weight", "bias", "layer", "part", "normed", "difference", "n_mixes"),
        ("share", c_int32 * MAX_MIXES),
        ("inputs", c_int32 * MAX_MIXES),
        ("eps", c_float),
    ]


class Mix(StepStruct):
    """inputs = x + difference (share + change)."""

    kind = Kind.mix
    _fields_ = _int32("x", "difference", "share", "change", "inputs")


class Activate(StepStruct):
    """inputs = function(x[first : first + width of inputs])."""

    kind = Kind.activate
    _fields_ = _int32("x", "first", "function", "inputs")


class Product(StepStruct):
    """y = inputs matrix^T; with `add`, y += inputs matrix^T."""

    kind = Kind.product
    _fields_ = _int32("inputs", "matrix", "y", "add")


class Gated(StepStruct):
    """y += sigmoid(gate) x."""

    kind = Kind.gated
    _fields_ = _int32("gate", "x", "y")


class Wkv4(StepStruct):
    """The recurrence of RWKV-4, for sigmoid(receptance) wkv."""

    kind = Kind.wkv4
    _fields_ = _int32("receptance", "key", "value", "y", "log_decay", "bonus", "layer")


class Wkv6(StepStruct):
    """The recurrence of RWKV-5 and 6 with its group norm and gate."""

    kind = Kind.wkv6
    _fields_ = [
        *_int32("receptance", "key", "value", "gate", "decay_change", "y", "decay", "bonus"),
        *_int32("norm_weight", "norm_bias", "layer", "head_size"),
        ("eps", c_float),
    ]


class Wkv7(StepStruct):
    """The recurrence of RWKV-7 with its elementwise inputs, group norm, bonus and gate."""

    kind = Kind.wkv7
    _fields_ = [
        *_int32("receptance", "key", "value", "decay", "rate", "gate", "mix", "value_first", "y"),
        *_int32("w0", "a0", "v0", "k_k", "k_a", "r_k"),
        *_int32("norm_weight", "norm_bias", "layer", "head_size"),
        ("eps", c_float),
    ]


class Adapter(StepStruct):
    """y += B (A inputs) for each row whose sequence uses one of `count` adapters.

    The factors of adapter i are the float32 matrices `first` + 2 i (rank, inputs) and
    `first` + 2 i + 1 (outputs, rank). Rank 0 changes nothing.
    """

    kind = Kind.adapter
    _fields_ = _int32("inputs", "y", "first", "count")


STRUCTS: tuple[type[StepStruct], ...] = (
    Norm, Shift, Mix, Activate, Product, Gated, Wkv4, Wkv6, Wkv7, Adapter,
)  # fmt: skip
"""All structs, in the order of `Kind`."""
