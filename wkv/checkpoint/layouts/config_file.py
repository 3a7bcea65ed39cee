"""Read the config.json of a Hugging Face directory and compare it with the tensors.

The sizes of a model come from its tensors, and config.json must agree with them. Only the eps of
the norms cannot be derived from tensors: it is 1e-5 for the layer norms of every official model,
and for the norm per head config.json states it, directly or by the rule of the layout's own code:

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
"""Keys of config.json, and the corresponding fields of `Config`."""

LAYER_NORM_EPS = 1e-5


def read_config_file(checkpoint: Path) -> Mapping[str, Any]:
    """Read the config.json next to a checkpoint; the result is empty if there is none.

    Raises:
        CheckpointError: if the file does not contain a JSON object.
    """
    path = checkpoint.with_name("config.json")
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"its config.json cannot be read ({error}); fetch it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError("its config.json is not a JSON object; fetch it again")
    return content


def with_config_file(config: Config, checkpoint: Path, layout: str) -> Config:
    """Return the config with the group norm eps that config.json states.

    Raises:
        CheckpointError: if the file cannot be read, or states other sizes or another eps of the
            layer norms.
    """
    stated = read_config_file(checkpoint)
    for key, name in SIZES.items():
        expected = getattr(config, name)
        if key in stated and stated[key] != expected:
            raise CheckpointError(
                f"config.json says {key} = {stated[key]!r} and the tensors have {expected}; they "
                "do not belong together, fetch the directory again"
            )
    for key in ("norm_eps", "layer_norm_epsilon"):
        if key in stated and _number(stated, key) != LAYER_NORM_EPS:
            raise CheckpointError(
                f"config.json says {key} = {stated[key]!r}, expected 1e-5: wkv supports no other "
                "eps of the layer norms; check the model, or fetch the directory again"
            )
    eps = _group_norm_eps(stated, config, layout)
    return config if eps is None else replace(config, group_norm_eps=eps)


def _group_norm_eps(stated: Mapping[str, Any], config: Config, layout: str) -> float | None:
    """Return the eps of the norm per head, or None if config.json does not state it."""
    if stated.get("group_norm_eps") is not None:
        return _number(stated, "group_norm_eps")
    if layout == "fla" and config.generation == "7" and "norm_eps" in stated and config.head_size:
        return _number(stated, "norm_eps") * config.head_size
    if layout == "hub" and "head_size_divisor" in stated and "layer_norm_epsilon" in stated:
        return _number(stated, "layer_norm_epsilon") * _number(stated, "head_size_divisor") ** 2
    return None


def _number(stated: Mapping[str, Any], key: str) -> float:
    value = stated[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json says {key} = {value!r}, expected a number above 0")
    return float(value)
