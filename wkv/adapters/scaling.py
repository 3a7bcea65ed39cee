"""The factor of low-rank changes, as each program stores it.

peft and rwkvtune write alpha and the rank to `adapter_config.json`, mlx-lm writes the factor itself
there, and GGUF files contain alpha. `.pth` files of RWKV-PEFT and RWKV-LM-LoRA, and files of
web-rwkv, contain neither, so that the caller must know alpha. It is never guessed.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wkv.errors import CheckpointError
from wkv.files import read_text

CONFIG = "adapter_config.json"

METHODS = ("LORA", "MISS", "BONE")

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations of peft that replace the weights of the base model as well."""

UNSUPPORTED = (
    "fan_in_fan_out", "lora_bias", "use_qalora", "alora_invocation_tokens", "layer_replication",
    "target_parameters", "trainable_token_indices",
)  # fmt: skip
"""Settings of peft that change the formula; each must be absent or false."""


@dataclass(frozen=True)
class Scaling:
    """The factor of low-rank changes.

    Attributes:
        path: the file, for error messages.
        alpha: the factor is alpha / r; None if the file does not contain it.
        factor: the factor itself, if it is stored; alpha is then unused.
        is_rank_stabilized: whether the factor is alpha / sqrt(r) instead.
        alphas, ranks: values for modules whose name matches a pattern (peft).
        rank: the rank of all other modules; None if it is not stored.
        is_mlx: whether mlx-lm wrote the file, whose factors are transposed.
        generations: see `wkv.adapters.open.Adapter`.
    """

    path: Path
    alpha: float | None = None
    factor: float | None = None
    is_rank_stabilized: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    rank: int | None = None
    is_mlx: bool = False
    generations: tuple[str, ...] = ()

    def of(self, module: str, rank: int) -> float:
        """Return the factor of a module.

        Raises:
            CheckpointError: if alpha is unknown, or the rank is not that of the configuration.
        """
        expected = _matching(self.ranks, module, self.rank)
        if expected is not None and rank != expected:
            raise CheckpointError(
                f"{self.path}: the factors of {module} have rank {rank}, and its {CONFIG} says "
                f"{expected}; the two files do not belong together"
            )
        if self.factor is not None:
            return self.factor
        alpha = _matching(self.alphas, module, self.alpha)
        if alpha is None:
            raise CheckpointError(
                f"{self.path}: the file does not contain alpha, by which its changes are scaled "
                f"(alpha / rank, rank {rank}); give the alpha of the training: --alpha A"
            )
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)


def read_scaling(path: Path, alpha: float | None) -> Scaling:
    """Read the configuration beside a file of weights; without one, `alpha` is all there is.

    Raises:
        CheckpointError: if the configuration is damaged, contradicts `alpha`, or describes a
            method that wkv cannot apply.
    """
    config = path.with_name(CONFIG)
    if not config.is_file():
        return Scaling(path, alpha)
    try:
        found = json.loads(read_text(config))
        if "peft_type" in found:
            scaling = _peft(path, found)
        elif "fine_tune_type" in found or "lora_parameters" in found:
            scaling = _mlx(path, found)
        else:
            raise ValueError("neither a peft_type nor a fine_tune_type")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{config}: this is not a configuration of peft, rwkvtune or mlx-lm ({error}); fetch "
            "the adapter again"
        ) from error
    return with_alpha(scaling, alpha)


def with_alpha(scaling: Scaling, alpha: float | None) -> Scaling:
    """Check that an alpha that was given does not contradict the file.

    Raises:
        CheckpointError: if it does.
    """
    stored = scaling.alpha if scaling.factor is None else None
    if alpha is not None and alpha != stored:
        found = f"alpha {stored:g}" if stored is not None else "the factor itself"
        raise CheckpointError(
            f"{scaling.path}: the adapter contains {found}, and alpha {alpha:g} was given; leave "
            "out --alpha"
        )
    return scaling


def _peft(path: Path, found: dict[str, Any]) -> Scaling:
    method = str(found["peft_type"])
    if method not in METHODS:
        raise CheckpointError(
            f"{path}: the adapter is of the type {method[:40]}, and wkv can apply "
            f"{', '.join(METHODS)}; merge it with peft, and convert the merged model"
        )
    start = str(found.get("init_lora_weights", "")).lower()
    if start.startswith(CHANGES_BASE):
        raise CheckpointError(
            f"{path}: training began with {start[:40]}, which changes the base model too; save the "
            "adapter again with peft's path_initial_model_for_weight_conversion"
        )
    for setting in UNSUPPORTED:
        if found.get(setting):
            raise CheckpointError(
                f"{path}: the adapter uses peft's {setting}, which wkv cannot apply; merge it with "
                "peft, and convert the merged model"
            )
    if method != "LORA":
        return Scaling(path)
    return Scaling(
        path,
        alpha=float(found["lora_alpha"]),
        is_rank_stabilized=bool(found.get("use_rslora")),
        alphas={key: float(value) for key, value in (found.get("alpha_pattern") or {}).items()},
        ranks={key: int(value) for key, value in (found.get("rank_pattern") or {}).items()},
        rank=int(found["r"]),
    )


def _mlx(path: Path, found: dict[str, Any]) -> Scaling:
    method = found.get("fine_tune_type", "lora")
    if method not in ("lora", "dora"):
        raise CheckpointError(
            f"{path}: mlx-lm trained with fine_tune_type {str(method)[:40]}, and wkv can apply "
            "lora and dora; fuse it with mlx_lm.fuse"
        )
    parameters = found["lora_parameters"]
    return Scaling(
        path, factor=float(parameters["scale"]), rank=int(parameters["rank"]), is_mlx=True
    )


def _matching(patterns: Mapping[str, float], module: str, default: float | None) -> float | None:
    """Return the value whose pattern matches the end of a module's name, as peft does."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error:
            continue
    return default
