"""Names and checks that the config classes share. Nothing here needs torch.

Some programs read the config of a model with transformers but compute without PyTorch.
"""

from collections.abc import Mapping
from typing import Any

CACHE_NAMES = ("cache", "past_key_values")
"""The names of a cache in transformers: `past_key_values` before 5.24, `cache` since then."""

SQUARED_RELU = ("sqrelu", "relu2")
"""The names of the activation of the channel mix, in fla and in transformers."""


def check(condition: bool, found: str, expected: str) -> None:
    """Check a condition that the config of a model must fulfill.

    Raises:
        ValueError: if the condition is false.
    """
    if not condition:
        raise ValueError(f"this config says {found}; expected {expected}")


def check_activation(fields: Mapping[str, Any]) -> None:
    """Check that `hidden_act` is the activation of RWKV, if the fields of a config contain it.

    Raises:
        ValueError: if it is another one.
    """
    name = fields.get("hidden_act")
    check(name in (None, *SQUARED_RELU), f"hidden_act {name!r}", repr(SQUARED_RELU[0]))
