"""Names of a Hugging Face layout as a table of rules, which is read in both directions.

A rule is an official name, a foreign name, and a form. In names, N stands for the number of a block
and * for whatever is left; the first rule that fits a name counts.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from wkv.checkpoint import Checkpoint
from wkv.checkpoint.layouts.view import View, as_it_is, viewed

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """How a tensor's form differs.

    Attributes:
        shape: of the official tensor, from that of the foreign one.
        turn: foreign values to official ones, up to a reshape.
        inverse: official values to foreign ones.
    """

    shape: Callable[[Shape], Shape]
    turn: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


SAME = Form(lambda shape: shape, as_it_is, as_it_is)
TRANSPOSED = Form(lambda shape: shape[::-1], lambda t: t.t(), lambda t: t.t().contiguous())
FLAT = Form(lambda shape: (1, 1, prod(shape)), as_it_is, lambda t: t.reshape(-1))
"""(1, 1, D) officially, (D,) there."""


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    official: str
    foreign: str
    form: Form = SAME

    def to_official(self, name: str) -> str | None:
        """The official name of a foreign one, if the rule fits."""
        return _renamed(name, self.foreign, self.official)

    def to_foreign(self, name: str) -> str | None:
        """The foreign name of an official one, if the rule fits."""
        return _renamed(name, self.official, self.foreign)


def _renamed(name: str, pattern: str, target: str) -> str | None:
    """`name` written as `target`, if it is of the pattern."""
    expression = re.escape(pattern).replace("N", r"(?P<number>\d+)", 1)
    match = re.fullmatch(expression.replace(r"\*", "(?P<rest>.+)"), name)
    if match is None:
        return None
    fields = match.groupdict()
    return target.replace("N", fields.get("number", "N"), 1).replace("*", fields.get("rest", "*"))


def official_view(checkpoint: Checkpoint, rules: Iterable[Rule]) -> Checkpoint:
    """A checkpoint in a foreign layout, with official names; names that no rule fits stay."""
    views = {}
    for name, shape in checkpoint.shapes.items():
        for rule in rules:
            official = rule.to_official(name)
            if official is not None:
                views[official] = View(name, rule.form.shape(shape), rule.form.turn)
                break
        else:
            views[name] = View(name, shape)
    return viewed(checkpoint, views)


def foreign_tensors(tensors: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Official tensors in a foreign layout."""
    foreign = {}
    for name, tensor in tensors.items():
        for rule in rules:
            renamed = rule.to_foreign(name)
            if renamed is not None:
                foreign[renamed] = rule.form.inverse(tensor)
                break
        else:
            foreign[name] = tensor
    return foreign
