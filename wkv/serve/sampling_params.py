"""The fields by which a request says how tokens are drawn, as the scheduler takes them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wkv.constraints.grammar import Grammar
from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling, banned
from wkv.inference.sequence import LogitsProcessor
from wkv.serve.errors import ApiError
from wkv.serve.requests import Drawing

FIELDS = ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "penalty_decay")


def sampling_of(body: Drawing, default: Sampling) -> Sampling:
    """The sampling a request asks for, over the model's own."""
    given = {name: value for name in FIELDS if (value := getattr(body, name)) is not None}
    return replace(default, **given, seed=body.seed)


def stops_of(body: Drawing) -> tuple[str, ...]:
    """The strings that end a reply."""
    if body.stop is None:
        return ()
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)


def logits_processors_of(
    body: Drawing, model: Model, grammar: Grammar | None = None
) -> tuple[LogitsProcessor, ...]:
    """What `logit_bias`, `ignore_eos` and a grammar do to the logits of each choice.

    Raises:
        InputError: for an id that is not in the vocabulary.
    """
    steps: list[LogitsProcessor] = []
    if body.logit_bias:
        steps.append(_biased(body.logit_bias, model.config.vocab_size))
    end = model.tokenizer.end_of_text
    if body.ignore_eos and end is not None:
        steps.append(lambda logits, _: banned(logits, [end]))
    if not steps and grammar is None:
        return ()
    # A grammar has the last word, and keeps account of each choice by itself.
    own = [[grammar.logits_processor()] if grammar else [] for _ in range(body.n or 1)]
    return tuple(_chained([*steps, *last]) for last in own)


def _chained(steps: Sequence[LogitsProcessor]) -> LogitsProcessor:
    """One after the other."""

    def logits_processor(logits: Tensor, drawn: Sequence[int]) -> Tensor:
        for step in steps:
            logits = step(logits, drawn)
        return logits

    return logits_processor


def check_model(name: str | None, own: str) -> None:
    """Let a request for this model pass, or one that names none.

    Raises:
        ApiError: for another model.
    """
    if name not in (None, "", own):
        raise ApiError(
            404,
            f"the model {name[:100]!r} is not served here; this server has {own!r}",
            param="model",
            code="model_not_found",
        )


def _biased(bias: dict[str, float], vocab_size: int) -> LogitsProcessor:
    try:
        ids = [int(key) for key in bias]
    except ValueError:
        raise InputError(
            "logit_bias has a key that is no id of a token; keys are numbers"
        ) from None
    wrong = [token for token in ids if not 0 <= token < vocab_size]
    if wrong:
        raise InputError(
            f"logit_bias: id {wrong[0]} is not in the vocabulary, 0 to {vocab_size - 1}"
        )
    values = torch.tensor(list(bias.values()), dtype=torch.float32)
    places = torch.tensor(ids)

    def logits_processor(logits: Tensor, _: Sequence[int]) -> Tensor:
        return logits.index_add(0, places.to(logits.device), values.to(logits))

    return logits_processor
