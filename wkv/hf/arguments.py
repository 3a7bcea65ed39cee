"""Check what transformers and other programs pass to the models: arguments and tensor names.

Code that is published with a checkpoint is used for years, with versions of transformers that did
not exist when it was written. An unknown argument may be the one that carries the state. Every
argument is therefore either supported, known not to change the result, or refused.
"""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.utils import logging

from wkv.hf.cache import RwkvCache
from wkv.hf.config_checks import CACHE_NAMES
from wkv.version import TESTED_TRANSFORMERS

WITHOUT_EFFECT = frozenset(
    {
        "cache_position",
        "return_dict",
        "logits_to_keep",
        "is_causal",
        "max_length_q",
        "max_length_k",
    }
)
"""Arguments of other models that cannot change the result of a recurrent one."""


def report_untested_version() -> None:
    """Warn once if the installed transformers is newer than those this code is tested with."""
    oldest, newest = TESTED_TRANSFORMERS
    if _number(transformers.__version__) > _number(newest):
        logging.get_logger("transformers").warning_once(
            f"The RWKV code of this model was tested with transformers {oldest} to {newest}; "
            f"{transformers.__version__} is installed. Unknown arguments will be refused."
        )


def _number(version: str) -> tuple[int, int]:
    """Return the major and minor version as numbers."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def chosen_cache(cache: RwkvCache | None, past_key_values: RwkvCache | None) -> RwkvCache:
    """Return the cache that was passed under either name, or an empty one.

    Raises:
        ValueError: if two different caches are given.
        TypeError: if the cache is of another class than RwkvCache.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache and past_key_values are two names of one argument; give one")
    given = past_key_values if cache is None else cache
    if given is None:
        return RwkvCache()
    if not hasattr(given, "states"):
        raise TypeError(f"a {type(given).__name__} was given as cache; expected an RwkvCache")
    return given


def refuse_attentions(kwargs: dict[str, Any]) -> None:
    """Remove `output_attentions` from the arguments.

    Raises:
        ValueError: if attention weights are wanted; a recurrent model has none.
    """
    if kwargs.pop("output_attentions", None):
        raise ValueError("output_attentions is true; a recurrent model has no attention weights")


def check_input(X: Tensor | None) -> Tensor:
    """Check the shape of the ids (B, T) or of the embeddings (B, T, D), and return them.

    Raises:
        ValueError: if there are none, or no tokens.
        TypeError: if the ids are not whole numbers.
    """
    if X is None:
        raise ValueError("give either input_ids or inputs_embeds")
    if X.dim() not in (2, 3) or X.shape[0] == 0 or X.shape[1] == 0:
        raise ValueError(
            f"the input is {tuple(X.shape)}, expected (batch, tokens) with at least one of each"
        )
    if X.dim() == 2 and X.is_floating_point():
        raise TypeError(f"input_ids are {X.dtype}, expected torch.int64")
    return X


def refuse_dynamic_length(X: Tensor) -> None:
    """Refuse to export a graph for any number of tokens, for example to ONNX.

    The recurrence is a loop over the tokens, which an exported graph repeats as often as during the
    export. For another number of tokens it would give wrong results. Any batch size is possible.

    Args:
        X: (B, T, D); during an export, T is a symbol if it is dynamic.

    Raises:
        ValueError: if T is dynamic.
    """
    if torch.compiler.is_exporting() and not isinstance(X.shape[1], int):
        raise ValueError(
            "an exported RWKV graph has a fixed number of tokens; make only the batch dynamic, and "
            "export one graph for the prompt (padded by attention_mask) and one for a single token"
        )


def refuse_other_names(source: Any, report: Mapping[str, Any], head_name: str) -> None:
    """Refuse a checkpoint with other tensor names than those of the network.

    Args:
        source: its name or path, for the message.
        report: what transformers reports about loading it.
        head_name: the name of the head, which a checkpoint for another task may lack.

    Raises:
        ValueError: if tensors of the network are missing and others are not used.
    """
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(head_name))
    unused = sorted(report["unexpected_keys"])
    if missing and unused:
        raise ValueError(
            f"{source} has {unused[0]} but not {missing[0]}, so its weights are in a layout that "
            "this class does not read; convert it (wkv convert OLD NEW --to hf) or use wkv.load"
        )


def refuse_unknown(kwargs: Mapping[str, Any], model: str) -> None:
    """Refuse arguments, except those that are known not to change the result.

    Raises:
        TypeError: if there is such an argument; the message names it.
    """
    unknown = [
        name
        for name, value in kwargs.items()
        if name not in WITHOUT_EFFECT and value is not None and value is not False
    ]
    if unknown:
        raise TypeError(
            f"{model} does not know the argument {', '.join(unknown)}. If your code does not "
            "pass it, transformers does, and this file is older than your transformers; renew the "
            "directory with a newer wkv (wkv convert OLD NEW --to hf)"
        )


def refuse_lost_cache(input_ids: Tensor, inputs: Mapping[str, Any]) -> None:
    """Check that a forward pass with only the newest tokens also gets the state of earlier tokens.

    Args:
        input_ids: (B, T), all tokens so far.
        inputs: the arguments of the next forward pass.

    Raises:
        RuntimeError: if the state is missing, because the installed transformers passes caches in
            a way that this file does not support.
    """
    ids = inputs.get("input_ids")
    is_truncated = ids is not None and ids.shape[1] < input_ids.shape[1]
    caches = (inputs.get(name) for name in CACHE_NAMES)
    if is_truncated and not any(cache is not None and cache.get_seq_length() for cache in caches):
        raise RuntimeError(
            "transformers has dropped the state of earlier tokens, so the text would be wrong: "
            "the code of this checkpoint is older than your transformers. Use an older "
            "transformers, or renew the directory with a newer wkv (wkv convert OLD NEW --to hf)"
        )
