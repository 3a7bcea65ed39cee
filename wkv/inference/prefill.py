"""Prefill: read prompts into states, before anything is sampled."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.models.state import State
from wkv.tokenizers.music import ABC_VOCAB_SIZE, AbcTokenizer
from wkv.tokenizers.world import WORLD_VOCAB_SIZE

Prompt = str | bytes | Sequence[int]

Progress = Callable[[int, int], None]
"""Called with the number of tokens that were read, and the number of all tokens to read."""


@dataclass(frozen=True)
class Prefilled:
    """The result of a prefill.

    Attributes:
        state: one row for each prompt, with the logits of the next token.
        ids: the ids that were read for each prompt, including a leading id 0.
        seconds: how long it took.
    """

    state: State
    ids: tuple[tuple[int, ...], ...]
    seconds: float

    @property
    def n_tokens(self) -> int:
        """The number of tokens that were read, over all prompts."""
        return sum(map(len, self.ids))

    @property
    def last_token(self) -> int | None:
        """The last id of the first prompt; None if nothing was read."""
        return self.ids[0][-1] if self.ids[0] else None


def prompt_ids(model: Model, prompt: Prompt, state: State | None) -> list[int]:
    """Return the ids of a prompt that follows a state (None: the empty state).

    A text that begins a document begins with the ids that the state requires, see
    `State.begins_with`. From the empty state, id 0 comes first in generations 7 and 7a with the
    World vocabulary, and id 2 in models of ABC notation, as in their training.

    Raises:
        InputError: if the prompt is empty and the state has no logits to continue from.
    """
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, (str, bytes)) else list(prompt)
    begins = state is None or not any(state.tokens_seen)
    if not ids and (begins or state is None or state.logits is None):
        raise InputError("the prompt is empty; give some text, or a state to go on from")
    if begins:
        first = list(first_ids(model, state))
        if ids[: len(first)] != first:
            return first + ids
    return ids


def first_ids(model: Model, state: State | None = None) -> tuple[int, ...]:
    """Return the ids with which a document of a model begins after a state without tokens."""
    state = model.start if state is None else state
    if state is not None and state.begins_with is not None:
        return state.begins_with
    if model.config.vocab_size == ABC_VOCAB_SIZE and isinstance(model.tokenizer, AbcTokenizer):
        return AbcTokenizer.begins_with
    return (0,) if has_leading_zero(model) else ()


def has_leading_zero(model: Model) -> bool:
    """Return whether documents of this model begin with id 0."""
    config = model.config
    return config.generation in ("7", "7a") and config.vocab_size == WORLD_VOCAB_SIZE


def prefill(
    model: Model,
    prompts: Sequence[Prompt],
    state: State | None = None,
    progress: Progress | None = None,
) -> Prefilled:
    """Read prompts as one batch.

    Args:
        model: the model.
        prompts: one for each row; empty ones only if all are empty and `state` has logits.
        state: the state to continue from, with a row for each prompt; not changed.
        progress: called after each piece; without it, the batch is read in one call.

    Raises:
        InputError: if there is nothing to read.
        KeyboardInterrupt: passes through; nothing has changed then.
    """
    begun = time.perf_counter()
    rows = [prompt_ids(model, prompt, state) for prompt in prompts]
    if all(rows):
        state = read_rows(model, rows, state, progress)
    elif state is None or state.logits is None or any(rows):
        raise InputError("in a batch with a state, either all prompts are empty or none is")
    return Prefilled(state, tuple(map(tuple, rows)), time.perf_counter() - begun)


def read_rows(
    model: Model,
    rows: Sequence[Sequence[int]],
    state: State | None = None,
    progress: Progress | None = None,
) -> State:
    """Read ids into a state, as one batch whose rows may differ in length; none is empty."""
    lengths = [len(row) for row in rows]
    width, total = max(lengths), sum(lengths)
    batch = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    if progress is None or len(rows) > 1:
        _, state = model.forward(batch, state, lengths=lengths)
        if progress is not None:
            progress(total, total)
        return state
    for start in range(0, width, model.tokens_at_once):
        end = min(start + model.tokens_at_once, width)
        _, state = model.forward(batch[:, start:end], state)
        progress(end, width)
    assert state is not None
    return state
