"""Generate text from a prompt, or from several prompts as one batch.

Text that is shown while it is generated comes from `wkv.inference.stream`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from wkv.errors import InputError, StateError
from wkv.inference.decode import RunningBatch, absorb
from wkv.inference.model import Model
from wkv.inference.prefill import Prompt, prefill
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import DraftCounts, RunningSequence, check_limits
from wkv.inference.speculation import Speculate, Speculation, speculation_for
from wkv.models.state import State

MAX_TOKENS = 256


@dataclass(frozen=True)
class Timings:
    """Durations of a generation; in a batch, those of the whole batch.

    Attributes:
        prompt_tokens: tokens that were read, including a leading id 0.
        prefill_seconds: time to read the prompts.
        decode_seconds: time to generate.
    """

    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Completion:
    """Generated text.

    Attributes:
        text: the text that was added, without the stop string.
        token_ids: the ids that were added, including those of a stop string, without an end of
            text.
        finish_reason: "stop" (a stop string or the end of the text), "length" or "interrupted".
        state: the state that has read the prompt and all of token_ids.
        timings: tokens and seconds.
        drafts: passes of the model and drafted tokens; zeros without speculative decoding.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    state: State
    timings: Timings = field(compare=False)
    drafts: DraftCounts = field(default_factory=DraftCounts, compare=False)


@overload
def generate(
    model: Model,
    prompt: str | bytes | list[int],
    *,
    sampling: Sampling = ...,
    max_tokens: int = ...,
    stop: str | Sequence[str] = ...,
    state: State | None = ...,
    speculate: Speculate | Speculation = ...,
    draft: Model | None = ...,
) -> Completion: ...


@overload
def generate(
    model: Model,
    prompt: list[str],
    *,
    sampling: Sampling = ...,
    max_tokens: int = ...,
    stop: str | Sequence[str] = ...,
    state: State | None = ...,
    speculate: Speculate | Speculation = ...,
    draft: Model | None = ...,
) -> list[Completion]: ...


def generate(
    model: Model,
    prompt: str | bytes | list[int] | list[str],
    *,
    sampling: Sampling | None = None,
    max_tokens: int = MAX_TOKENS,
    stop: str | Sequence[str] = (),
    state: State | None = None,
    speculate: Speculate | Speculation = "auto",
    draft: Model | None = None,
) -> Completion | list[Completion]:
    """Continue a prompt, or a list of prompts as one batch.

    Args:
        model: any loaded model.
        prompt: text, bytes or ids; or a list of texts. From the empty state, id 0 is read first
            by generations 7 and 7a with the World vocabulary, as in their training.
        sampling: the sampling parameters. With a seed, a prompt in a batch gives the same text as
            alone (in float32; 16-bit products round differently in a batch).
        max_tokens: the largest number of tokens to add.
        stop: a string, or several, that end the text; also found across token boundaries.
        state: the state to continue from, one row, or a row for each prompt. With a state, a
            prompt may be empty.
        speculate: "auto" reads drafted tokens where that saves time, "off" never, and a number
            always reads that many. The text is the same; see `speculation_for`.
        draft: a small model with the same vocabulary that drafts tokens.

    Returns:
        A Completion, or a list of them in the order of the prompts. Ctrl-C ends the generation
        with finish_reason "interrupted" and the text so far.

    Raises:
        InputError: for an empty prompt without a state, and other misuse.
        StateError: for a state of another model.
    """
    stops = check_limits(max_tokens, stop)
    sampling = check_sampling(sampling)
    prompts, single = split_prompts(prompt)
    state = _state_for(state, len(prompts))
    sequences = [RunningSequence(model.tokenizer, sampling, max_tokens, stops) for _ in prompts]
    speculation = speculation_for(model, speculate, draft)
    batch: RunningBatch[RunningSequence] = RunningBatch(model, speculation)
    read, begun = 0, time.perf_counter()
    try:
        done = prefill(model, prompts, state)
        state, read = done.state, done.n_tokens
        if speculation is not None:
            for sequence, ids in zip(sequences, done.ids, strict=True):
                sequence.drafter = speculation.drafter(ids)
    except KeyboardInterrupt:  # nothing was read, and nothing will be generated
        state = state or model.new_state(len(prompts))
        for sequence in sequences:
            sequence.finish("interrupted")
    batch.add(sequences, [state])
    prefilled = time.perf_counter()
    states = _decode(model, batch)
    times = Timings(read, prefilled - begun, time.perf_counter() - prefilled)
    completions = [
        Completion(
            one.text,
            one.token_ids,
            one.finish_reason or "",
            states[id(one)],
            times,
            one.draft_counts,
        )
        for one in sequences
    ]
    return completions[0] if single else completions


def _decode(model: Model, batch: RunningBatch[RunningSequence]) -> dict[int, State]:
    """Decode until all sequences have ended; returns their states by the sequences' ids."""
    states: dict[int, State] = {}

    def take(ended: list[RunningSequence]) -> None:
        states.update(zip(map(id, ended), batch.remove(ended), strict=True))

    try:
        take(batch.complete())
        while batch.sequences:
            for event in batch.sample():
                if event.error is not None:
                    raise event.error
            take(batch.complete())
            # The model reads the last token of a sequence too, so that its state is complete.
            batch.forward()
            take(batch.complete())
    except KeyboardInterrupt:
        for sequence in list(batch.sequences):
            if sequence.finish_reason is None:
                sequence.finish("interrupted")
            (state,) = batch.remove([sequence])
            states[id(sequence)] = absorb(model, state, sequence)
    return states


def split_prompts(prompt: Prompt | Sequence[str | bytes]) -> tuple[list[Prompt], bool]:
    """Return a list of prompts, and whether a single one was given.

    Raises:
        InputError: for anything but text, bytes, a list of ids, or a list of texts.
    """
    if isinstance(prompt, (str, bytes)):
        return [prompt], True
    if isinstance(prompt, Sequence):
        if not prompt:
            raise InputError("the prompt is empty: no texts and no ids; give at least one")
        ids = [item for item in prompt if type(item) is int]
        if len(ids) == len(prompt):
            return [ids], True
        texts: list[Prompt] = [item for item in prompt if isinstance(item, (str, bytes))]
        if len(texts) == len(prompt):
            return texts, False
    raise InputError(
        f"a prompt is text, bytes, or a list of integer ids, or a list of texts for a batch; "
        f"{type(prompt).__name__} was given"
    )


def check_sampling(sampling: Sampling | None) -> Sampling:
    """Return the sampling parameters, or the default ones for None."""
    if sampling is None:
        return Sampling()
    if not isinstance(sampling, Sampling):
        raise InputError(f"sampling is a wkv.Sampling, {type(sampling).__name__} was given")
    return sampling


def _state_for(state: State | None, rows: int) -> State | None:
    """Return the state with a row for each prompt; a single row is repeated."""
    if state is not None and not isinstance(state, State):
        raise StateError(f"a state is a wkv.State, {type(state).__name__} was given")
    if state is None or state.batch_size == rows:
        return state
    if state.batch_size == 1:
        return state.rows([0] * rows)
    raise StateError(
        f"the state has {state.batch_size} rows for {rows} prompts; give one row, or one for each"
    )
