"""Read the config.json of a Hugging Face directory and compare it with the tensors.

The sizes of a model come from its tensors, and config.json must agree with them. Fields that would
change the formulas are refused, unless they have the value of every official model. Only the eps of
the norms cannot be derived from tensors: it is 1e-5 for the layer norms of every official model,
and for the norm per head config.json states it, directly or by the rule of the layout's own code:

    fla, RWKV-7: norm_eps * head_dim          hub, 5 and 6: layer_norm_epsilon * head_size_divisor^2
    fla, RWKV-6: norm_eps
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wkv.errors import CheckpointError
from wkv.models import Config

SIZES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "vocab_size": "vocab_size",
    "attention_hidden_size": "dim_att",
    "intermediate_size": "dim_ffn",
    "head_size": "head_size",
    "head_dim": "head_size",
}
"""Keys of config.json, and the corresponding fields of `Config`; null states nothing.

The number of heads follows from their size. Some directories of fla state another one, which fla
does not use.
"""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("sqrelu", "relu2"),
    "norm_first": (True,),
    "norm_bias": (True,),
    "attn": (None,),
}
"""Keys of config.json that would change the formulas, and their values for RWKV."""

LAYER_NORM_EPS = 1e-5

HEAD_SIZE_DIVISOR = 8


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
        CheckpointError: if the file cannot be read, or states other sizes, another eps of the
            layer norms or another variant of RWKV.
    """
    stated = read_config_file(checkpoint)
    for key, name in SIZES.items():
        expected = getattr(config, name)
        if stated.get(key) is not None and expected is not None and stated[key] != expected:
            raise CheckpointError(
                f"config.json says {key} = {stated[key]!r} and the tensors have {expected}; they "
                "do not belong together, fetch the directory again"
            )
    for key, values in FIXED.items():
        if key in stated and stated[key] not in values:
            raise CheckpointError(
                f"config.json says {key} = {stated[key]!r}, expected {values[0]!r}: wkv does not "
                "support this variant of RWKV; use the program that it was trained with"
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
    if layout == "fla" and "norm_eps" in stated and config.head_size:
        return _number(stated, "norm_eps") * (1 if config.generation == "6" else config.head_size)
    is_stated = "head_size_divisor" in stated or "layer_norm_epsilon" in stated
    if layout == "hub" and config.head_size and is_stated:
        divisor = _number(stated, "head_size_divisor", HEAD_SIZE_DIVISOR)
        return _number(stated, "layer_norm_epsilon", LAYER_NORM_EPS) * divisor**2
    return None


def _number(stated: Mapping[str, Any], key: str, default: float = math.nan) -> float:
    value = stated.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise CheckpointError(f"config.json says {key} = {value!r}, expected a number above 0")
    return float(value)
