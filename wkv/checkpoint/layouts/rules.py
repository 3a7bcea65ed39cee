"""Translate tensor names and values between the official layout and a Hugging Face layout.

A layout is a list of rules, which are used in both directions. A rule has an official name, a
foreign name and a conversion of shapes and values. In names, N is the number of a
block and * is the rest of the name. The first rule that matches a name is used.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.view import View, unchanged, view_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Conversion:
    """The conversion of shapes and values between the official and a foreign layout.

    Attributes:
        shape: converts the foreign shape to the official one.
        transform: converts foreign values to official ones; the caller reshapes the result.
        inverse: converts official values to foreign ones.
    """

    shape: Callable[[Shape], Shape]
    transform: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


SAME = Conversion(lambda shape: shape, unchanged, unchanged)
TRANSPOSED = Conversion(lambda shape: shape[::-1], lambda t: t.t(), lambda t: t.t().contiguous())
FLAT = Conversion(lambda shape: (1, 1, prod(shape)), unchanged, lambda t: t.reshape(-1))
"""The official shape is (1, 1, D), the foreign one is (D,)."""


@dataclass(frozen=True)
class Rule:
    """A rule that translates the tensors of one name pattern."""

    official: str
    foreign: str
    conversion: Conversion = SAME

    def to_official(self, name: str) -> str | None:
        """Return the official name for a foreign name, or None if the rule does not match."""
        return _renamed(name, self.foreign, self.official)

    def to_foreign(self, name: str) -> str | None:
        """Return the foreign name for an official name, or None if the rule does not match."""
        return _renamed(name, self.official, self.foreign)


def _renamed(name: str, pattern: str, target: str) -> str | None:
    """Rewrite a name that matches `pattern` to the form of `target`, or return None."""
    expression = re.escape(pattern).replace("N", r"(?P<number>\d+)", 1)
    match = re.fullmatch(expression.replace(r"\*", "(?P<rest>.+)"), name)
    if match is None:
        return None
    fields = match.groupdict()
    return target.replace("N", fields.get("number", "N"), 1).replace("*", fields.get("rest", "*"))


def official_view(checkpoint: Checkpoint, rules: Iterable[Rule]) -> Checkpoint:
    """View a checkpoint of a foreign layout as official; names without a rule are unchanged."""
    views = {}
    for name, shape in checkpoint.shapes.items():
        for rule in rules:
            official = rule.to_official(name)
            if official is not None:
                views[official] = View(
                    name, rule.conversion.shape(shape), rule.conversion.transform
                )
                break
        else:
            views[name] = View(name, shape)
    return view_of(checkpoint, views)


def foreign_tensors(tensors: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Convert official tensors to a foreign layout; names without a rule are unchanged."""
    foreign = {}
    for name, tensor in tensors.items():
        for rule in rules:
            renamed = rule.to_foreign(name)
            if renamed is not None:
                foreign[renamed] = rule.conversion.inverse(tensor)
                break
        else:
            foreign[name] = tensor
    return foreign
