"""Translate the targets of an adapter to the tensors of its base model."""

import re
from collections.abc import Container
from dataclasses import dataclass

from wkv.checkpoint.layouts import FLA7, HUB, OFFICIAL_2026
from wkv.checkpoint.layouts.fla import FLA6
from wkv.checkpoint.layouts.rules import SAME, TRANSPOSED, Conversion, Rule

WRAPPERS = re.compile(r"^((base_model\.model|module|_forward_module|_orig_mod)\.)+")
SAVED_MODULES = re.compile(r"\.(modules_to_save\.\w+|base_layer|original_module)(?=\.)")
"""Parts of names that peft adds to modules, before the name of the tensor."""

LLAMA = (
    Rule("emb.weight", "token_embd.weight"),
    Rule("head.weight", "output.weight"),
    Rule("blocks.N.att.*.weight", "blk.N.time_mix_*.weight"),
    Rule("blocks.N.ffn.*.weight", "blk.N.channel_mix_*.weight"),
)
"""llama.cpp's names of the matrices; it ignores adapters of other tensors."""

OFFICIAL = (Rule("*", "*"), Rule("*", "model.*"))
"""Official names, and those of models inside a Lightning module."""


OFFICIAL_NAME = re.compile(
    r"(emb|head)\.weight|ln_out\.(weight|bias)"
    r"|blocks\.\d+\.(ln[012]|att\.ln_x)\.(weight|bias)"
    r"|blocks\.\d+\.(att|ffn)\.(receptance|key|value|gate|output)\.weight"
    r"|blocks\.\d+\.(att|ffn)\.([a-z]_[a-z]|[wavg][012]|time_\w+)"
)
"""The official names of tensors of all generations."""


class AnyModel:
    """The tensor names of all models, as a container, for adapters without their base model."""

    def __contains__(self, name: object) -> bool:
        """Return whether a model of some generation has a tensor of this name."""
        return isinstance(name, str) and OFFICIAL_NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Target:
    """A tensor of the base model.

    Attributes:
        name: the official name.
        conversion: converts the adapter's tensor of this name to the official one.
    """

    name: str
    conversion: Conversion = SAME

    @property
    def is_transposed(self) -> bool:
        """Whether the adapter sees the matrix transposed."""
        return self.conversion is TRANSPOSED


def find_target(name: str, known: Container[str]) -> Target | None:
    """Return the tensor that a tensor name of an adapter means, or None.

    Args:
        name: a name in any layout that wkv reads, with the prefixes of wrappers.
        known: the official names of the base model's tensors.
    """
    plain = SAVED_MODULES.sub("", WRAPPERS.sub("", name))
    for rules in (OFFICIAL, HUB, OFFICIAL_2026, FLA7, FLA6, LLAMA):
        for rule in rules:
            official = rule.to_official(plain)
            if official is not None and official in known:
                return Target(official, rule.conversion)
    return None
