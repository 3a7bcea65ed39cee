"""Stream text: hand out the text of one generation piece by piece."""

import time
from collections.abc import Iterator, Sequence

from wkv.errors import InputError, StateError
from wkv.inference.decode import RunningBatch, absorb
from wkv.inference.generate import (
    MAX_TOKENS,
    Completion,
    Timings,
    check_sampling,
    split_prompts,
)
from wkv.inference.model import Model
from wkv.inference.prefill import Prompt, prefill
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import LogitsProcessor, RunningSequence, check_limits
from wkv.inference.speculation import Speculate, Speculation, speculation_for
from wkv.models.state import State


def stream(
    model: Model,
    prompt: Prompt,
    *,
    sampling: Sampling | None = None,
    max_tokens: int = MAX_TOKENS,
    stop: str | Sequence[str] = (),
    state: State | None = None,
    logits_processor: LogitsProcessor | None = None,
    speculate: Speculate | Speculation = "auto",
    draft: Model | None = None,
    context: Sequence[int] = (),
) -> "Stream":
    """Continue a prompt and hand out the text as it is generated. Arguments as in `wkv.generate`.

    `logits_processor` is called with the logits (V,) and the ids sampled so far before each
    sampling, and returns the logits to sample from; penalties are applied afterwards. `context`
    are the ids that `state` has read, as far as they are known; speculative decoding finds drafts
    in them.

    The pieces join to the `text` of `generate`. No piece ends within a character, and no stop
    string is shown. The prompt is read when the first piece is requested.
    """
    stops = check_limits(max_tokens, stop)
    prompts, single = split_prompts(prompt)
    if not single:
        raise InputError("a stream has one prompt; for a list of texts use wkv.generate")
    if state is not None and (not isinstance(state, State) or state.batch_size != 1):
        raise StateError("a stream goes on from a wkv.State of one row; use state.rows([i])")
    sampling = check_sampling(sampling)
    sequence = RunningSequence(model.tokenizer, sampling, max_tokens, stops, logits_processor)
    speculation = speculation_for(model, speculate, draft)
    return Stream(model, prompts[0], sequence, state, speculation, context)


class Stream(Iterator[str]):
    """An iterator over pieces of text; `result` is the whole completion, once it has ended.

    Ctrl-C while a piece is generated ends the iteration and keeps the text so far. Where Ctrl-C
    may occur between two pieces, catch KeyboardInterrupt around the loop and call `interrupt`.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        sequence: RunningSequence,
        state: State | None,
        speculation: Speculation | None = None,
        context: Sequence[int] = (),
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._sequence = sequence
        self._state = state
        self._speculation = speculation
        self._context = context
        self._batch: RunningBatch[RunningSequence] = RunningBatch(model, speculation)
        self._is_prefilled = False
        self._timings = Timings(0, 0.0, 0.0)

    def __next__(self) -> str:
        """Return the next piece; it is never empty."""
        try:
            if not self._is_prefilled:
                self._prefill()
            while self._sequence.finish_reason is None:
                piece = self._decode()
                if piece:
                    return piece
        except KeyboardInterrupt:
            rest = self.interrupt()
            if rest:
                return rest
        raise StopIteration

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids sampled so far."""
        return tuple(self._sequence.token_ids)

    @property
    def seed(self) -> int:
        """The seed in use; with it in `Sampling`, the text can be generated again."""
        return self._sequence.sampler.seed

    def interrupt(self, reason: str = "interrupted") -> str:
        """End the generation here; returns the text that was held back until now."""
        self._is_prefilled = True
        return self._sequence.finish(reason) if self._sequence.finish_reason is None else ""

    @property
    def result(self) -> Completion:
        """The completion; a generation that has not ended ends here, as interrupted."""
        self.interrupt()
        sequence = self._sequence
        if self._batch.sequences:
            (self._state,) = self._batch.remove([sequence])
            self._state = absorb(self._model, self._state, sequence)
        state = self._model.new_state() if self._state is None else self._state
        reason = sequence.finish_reason or ""
        return Completion(
            sequence.text,
            sequence.token_ids,
            reason,
            state,
            self._timings,
            sequence.draft_counts,
        )

    def _prefill(self) -> None:
        done = prefill(self._model, [self._prompt], self._state)
        self._timings = Timings(done.n_tokens, done.seconds, 0.0)
        if self._speculation is not None:
            self._sequence.drafter = self._speculation.drafter([*self._context, *done.ids[0]])
        self._batch.add([self._sequence], [done.state])
        self._is_prefilled = True

    def _decode(self) -> str:
        """Read the token that was sampled last, then sample the next one."""
        begun = time.perf_counter()
        self._batch.forward()
        (event,) = self._batch.sample()
        times = self._timings
        seconds = times.decode_seconds + time.perf_counter() - begun
        self._timings = Timings(times.prompt_tokens, times.prefill_seconds, seconds)
        if event.error is not None:
            raise event.error
        return event.text
