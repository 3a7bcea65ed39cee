"""The config.json of a Hugging Face directory. Sizes come from the tensors; it may only agree.

What no tensor tells is the eps of the norms: layer norms have 1e-5 in every official model, and the
norm of a head has what the file says, directly or by the rule of the layout's own code:

    fla, RWKV-7: norm_eps * head_dim          hub, 5 and 6: layer_norm_epsilon * head_size_divisor^2
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wkv.errors import CheckpointError
from wkv.models import Config

SIZES = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "vocab_size": "vocab_size"}
"""Keys of the file, and what they are called here."""

LAYER_NORM_EPS = 1e-5


def read_config_file(checkpoint: Path) -> Mapping[str, Any]:
    """The config.json beside a checkpoint; empty if there is none.

    Raises:
        CheckpointError: if it is no JSON object.
    """
    path = checkpoint.with_name("config.json")
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"its config.json cannot be read ({error}); fetch it again"
        ) from error
    if not isinstance(told, dict):
        raise CheckpointError("its config.json holds no JSON object; fetch it again")
    return told


def with_config_file(config: Config, checkpoint: Path, layout: str) -> Config:
    """The sizes of a model, with the eps that the config.json beside it tells.

    Raises:
        CheckpointError: if the file cannot be read, or tells other sizes or layer norms.
    """
    told = read_config_file(checkpoint)
    for key, name in SIZES.items():
        expected = getattr(config, name)
        if key in told and told[key] != expected:
            raise CheckpointError(
                f"config.json says {key} = {told[key]!r} and the tensors have {expected}; they do "
                "not belong together, fetch the directory again"
            )
    for key in ("norm_eps", "layer_norm_epsilon"):
        if key in told and _number(told, key) != LAYER_NORM_EPS:
            raise CheckpointError(
                f"config.json says {key} = {told[key]!r}; layer norms of RWKV have 1e-5, and wkv "
                "knows no other"
            )
    eps = _group_norm_eps(told, config, layout)
    return config if eps is None else replace(config, group_norm_eps=eps)


def _group_norm_eps(told: Mapping[str, Any], config: Config, layout: str) -> float | None:
    """The eps of the norm per head, if the file tells."""
    if told.get("group_norm_eps") is not None:
        return _number(told, "group_norm_eps")
    if layout == "fla" and config.generation == "7" and "norm_eps" in told and config.head_size:
        return _number(told, "norm_eps") * config.head_size
    if layout == "hub" and "head_size_divisor" in told and "layer_norm_epsilon" in told:
        return _number(told, "layer_norm_epsilon") * _number(told, "head_size_divisor") ** 2
    return None


def _number(told: Mapping[str, Any], key: str) -> float:
    value = told[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json says {key} = {value!r}, expected a number above 0")
    return float(value)
