"""Generation: prompts and a model in, what the model says in out; one prompt, or a batch at once.

Streaming the text as it comes is in `wkv.inference.stream`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import torch

from wkv.errors import InputError, StateError
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import Writer, check_limits
from wkv.models.state import State
from wkv.tokenizers.world import WORLD_VOCAB_SIZE

MAX_TOKENS = 256

Prompt = str | bytes | Sequence[int]


@dataclass(frozen=True)
class Timings:
    """How long a generation took; in a batch, the whole batch.

    `prompt_tokens` counts what was read, a leading id 0 included.
    """

    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Generation:
    """What a model said.

    Attributes:
        text: what was added, without the stop string.
        token_ids: what was added as ids, with the tokens of a stop string, without an end of text.
        finish_reason: "stop" (a stop string or the end of the text), "length" or "interrupted".
        state: has absorbed the prompt and all of token_ids.
        timings: tokens and seconds.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    state: State
    timings: Timings = field(compare=False)


@overload
def generate(
    model: Model,
    prompt: str | bytes | list[int],
    *,
    sampling: Sampling = ...,
    max_tokens: int = ...,
    stop: str | Sequence[str] = ...,
    state: State | None = ...,
) -> Generation: ...


@overload
def generate(
    model: Model,
    prompt: list[str],
    *,
    sampling: Sampling = ...,
    max_tokens: int = ...,
    stop: str | Sequence[str] = ...,
    state: State | None = ...,
) -> list[Generation]: ...


def generate(
    model: Model,
    prompt: str | bytes | list[int] | list[str],
    *,
    sampling: Sampling | None = None,
    max_tokens: int = MAX_TOKENS,
    stop: str | Sequence[str] = (),
    state: State | None = None,
) -> Generation | list[Generation]:
    """Continue a prompt, or a list of prompts as one batch.

    Args:
        model: any loaded model.
        prompt: text, bytes or ids; or a list of texts. From the empty state, id 0 is read first
            by generations 7 and 7a with the World vocabulary, as they were trained.
        sampling: how tokens are drawn; with a seed, a prompt in a batch gives what it gives alone
            (in float32: in 16 bit, a batch is rounded otherwise than a row alone).
        max_tokens: at most so many tokens are added.
        stop: a string, or several, that end the text; found across the borders of tokens.
        state: to go on from, one row, or a row for each prompt. With one, a prompt may be empty.

    Returns:
        A Generation, or a list of them in the order of the prompts. Ctrl-C ends the generation,
        with finish_reason "interrupted" and all that was said so far.

    Raises:
        InputError: for an empty prompt without a state, and other misuse.
        StateError: for a state of another model.
    """
    stops = check_limits(max_tokens, stop)
    sampling = check_sampling(sampling)
    prompts, single = split_prompts(prompt)
    state = _state_for(state, len(prompts))
    writers = [Writer(model.tokenizer, sampling, max_tokens, stops) for _ in prompts]
    begun = time.perf_counter()
    try:
        running, read = prefill(model, prompts, state)
    except KeyboardInterrupt:  # nothing was absorbed, and nothing will be written
        state, read = state or model.new_state(len(prompts)), 0
        running = Running(tuple(range(len(prompts))), state, state.tokens_seen)
        for writer in writers:
            writer.finish("interrupted")
    prefilled = time.perf_counter()
    states = _write(model, writers, running)
    times = Timings(read, prefilled - begun, time.perf_counter() - prefilled)
    done = [
        Generation(writer.text, writer.token_ids, writer.finish_reason or "", state, times)
        for writer, state in zip(writers, states, strict=True)
    ]
    return done[0] if single else done


@dataclass(frozen=True)
class Running:
    """Sequences that are advanced together.

    Attributes:
        rows: their numbers among all prompts.
        state: a row for each, with the logits of what comes next.
        base: tokens that each row's state had seen when its writing began.
    """

    rows: tuple[int, ...]
    state: State
    base: tuple[int, ...]

    def keep(self, places: Sequence[int]) -> "Running":
        """Only the sequences at these places."""
        if len(places) == len(self.rows):
            return self
        return Running(
            tuple(self.rows[place] for place in places),
            self.state.rows(places),
            tuple(self.base[place] for place in places),
        )


def split_prompts(prompt: Prompt | Sequence[str | bytes]) -> tuple[list[Prompt], bool]:
    """A list of prompts, and whether it was a single one.

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
    """The sampling, or the default one."""
    if sampling is None:
        return Sampling()
    if not isinstance(sampling, Sampling):
        raise InputError(f"sampling is a wkv.Sampling, {type(sampling).__name__} was given")
    return sampling


def prompt_ids(model: Model, prompt: Prompt, state: State | None) -> list[int]:
    """The ids to read for a prompt that follows a state (None: the empty one).

    Raises:
        InputError: if there is nothing to read and nothing was read before.
    """
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, (str, bytes)) else list(prompt)
    begins = state is None or not any(state.tokens_seen)
    if not ids and (begins or state is None or state.logits is None):
        raise InputError("the prompt is empty; give some text, or a state to go on from")
    document = (
        model.config.generation in ("7", "7a") and model.config.vocab_size == WORLD_VOCAB_SIZE
    )
    if begins and document and ids[0] != 0:
        ids.insert(0, 0)
    return ids


def prefill(model: Model, prompts: Sequence[Prompt], state: State | None) -> tuple[Running, int]:
    """Read prompts as one batch; returns what runs from there, and the number of tokens read."""
    ids = [prompt_ids(model, prompt, state) for prompt in prompts]
    if not all(ids):
        if state is None or state.logits is None or any(ids):
            raise InputError("in a batch with a state, either all prompts are empty or none is")
    else:
        lengths = [len(row) for row in ids]
        width = max(lengths)
        batch = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        _, state = model.forward(batch, state, lengths=lengths)
    return Running(tuple(range(len(ids))), state, state.tokens_seen), sum(map(len, ids))


def absorb(model: Model, state: State, base: int, token_ids: Sequence[int]) -> State:
    """A one-row state that has read all of token_ids, having seen `base` tokens before them."""
    missing = list(token_ids[state.tokens_seen[0] - base :])
    return model.forward(missing, state)[1] if missing else state


def _write(model: Model, writers: Sequence[Writer], running: Running) -> list[State]:
    """Advance all writers to their ends; returns the final states, one row each."""
    finals: dict[int, State] = {}
    try:
        while running.rows:
            running = _step(model, writers, running, finals)
    except KeyboardInterrupt:
        for place, row in enumerate(running.rows):
            if writers[row].finish_reason is None:
                writers[row].finish("interrupted")
            state = running.state.rows([place])
            finals[row] = absorb(model, state, running.base[place], writers[row].token_ids)
    return [finals[row] for row in range(len(writers))]


def _step(
    model: Model, writers: Sequence[Writer], running: Running, finals: dict[int, State]
) -> Running:
    """Draw a token for each running sequence and absorb them; ended ones go to `finals`."""
    absorbing = []
    logits = running.state.logits
    for place, row in enumerate(running.rows):
        count = len(writers[row].token_ids)
        if writers[row].finish_reason is None:
            assert logits is not None
            writers[row].advance(logits[place])
        if len(writers[row].token_ids) > count:
            absorbing.append(place)
        else:  # the end of the text, which is not absorbed, or no token was wanted
            finals[row] = running.state.rows([place])
    running = running.keep(absorbing)
    if not running.rows:
        return running
    tokens = torch.tensor([[writers[row].token_ids[-1]] for row in running.rows])
    _, state = model.forward(tokens, running.state)
    running = replace(running, state=state)
    going_on = []
    for place, row in enumerate(running.rows):
        if writers[row].finish_reason is None:
            going_on.append(place)
        else:
            finals[row] = state.rows([place])
    return running.keep(going_on)


def _state_for(state: State | None, rows: int) -> State | None:
    """The state with a row for each prompt; one row serves them all."""
    if state is not None and not isinstance(state, State):
        raise StateError(f"a state is a wkv.State, {type(state).__name__} was given")
    if state is None or state.batch_size == rows:
        return state
    if state.batch_size == 1:
        return state.rows([0] * rows)
    raise StateError(
        f"the state has {state.batch_size} rows for {rows} prompts; give one row, or one for each"
    )
