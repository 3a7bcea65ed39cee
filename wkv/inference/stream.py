"""Streaming: the text of one generation, piece by piece, and what there is to know at its end."""

import time
from collections.abc import Iterator, Sequence

from wkv.errors import InputError, StateError
from wkv.inference.generate import (
    MAX_TOKENS,
    Generation,
    Prompt,
    Timings,
    absorb,
    check_sampling,
    prefill,
    split_prompts,
)
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import Adjust, Writer, check_limits
from wkv.models.state import State


def stream(
    model: Model,
    prompt: Prompt,
    *,
    sampling: Sampling | None = None,
    max_tokens: int = MAX_TOKENS,
    stop: str | Sequence[str] = (),
    state: State | None = None,
    adjust: Adjust | None = None,
) -> "Stream":
    """Continue a prompt, handing out the text as it comes. Arguments as in `wkv.generate`.

    `adjust` is called with the logits (V,) and the ids drawn so far before each draw, and gives
    the logits to draw from; penalties come after it.

    The pieces join to the `text` that `generate` gives; none is half a character, and a stop
    string never shows. The prompt is read when the first piece is asked for.
    """
    stops = check_limits(max_tokens, stop)
    prompts, single = split_prompts(prompt)
    if not single:
        raise InputError("a stream has one prompt; for a list of texts use wkv.generate")
    return Stream(model, prompts[0], check_sampling(sampling), max_tokens, stops, state, adjust)


class Stream(Iterator[str]):
    """An iterator over pieces of text; `result` is the whole generation, once it has ended.

    Ctrl-C while a piece is being made ends the iteration and keeps what was said. Where Ctrl-C
    may strike between two pieces, catch KeyboardInterrupt around the loop and call `interrupt`.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        sampling: Sampling,
        max_tokens: int,
        stops: Sequence[str],
        state: State | None,
        adjust: Adjust | None = None,
    ) -> None:
        if state is not None and (not isinstance(state, State) or state.batch_size != 1):
            raise StateError("a stream goes on from a wkv.State of one row; use state.rows([i])")
        self._model = model
        self._prompt = prompt
        self._writer = Writer(model.tokenizer, sampling, max_tokens, stops, adjust)
        self._state = state
        self._base: int | None = None
        self._read = 0
        self._prefill_seconds = 0.0
        self._decode_seconds = 0.0

    def __next__(self) -> str:
        """The next piece; never empty."""
        try:
            while self._writer.finish_reason is None or self._base is None:
                if self._base is None:
                    self._prefill()
                    continue
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
        """What was drawn so far."""
        return tuple(self._writer.token_ids)

    def interrupt(self, reason: str = "interrupted") -> str:
        """End the generation here; returns the text that was held back until now."""
        if self._base is None:
            self._base = 0 if self._state is None else self._state.tokens_seen[0]
        if self._writer.finish_reason is None:
            return self._writer.finish(reason)
        return ""

    @property
    def result(self) -> Generation:
        """The generation; if it has not ended, it ends here, as interrupted."""
        self.interrupt()
        state = self._model.new_state() if self._state is None else self._state
        self._state = absorb(self._model, state, self._base or 0, self._writer.token_ids)
        return Generation(
            self._writer.text,
            self._writer.token_ids,
            self._writer.finish_reason or "",
            self._state,
            Timings(self._read, self._prefill_seconds, self._decode_seconds),
        )

    def _prefill(self) -> None:
        begun = time.perf_counter()
        running, self._read = prefill(self._model, [self._prompt], self._state)
        self._state, self._base = running.state, running.base[0]
        self._prefill_seconds = time.perf_counter() - begun

    def _decode(self) -> str:
        """Absorb the token that was drawn last, then draw the next; its text is shown at once."""
        begun = time.perf_counter()
        assert self._state is not None
        self._state = absorb(self._model, self._state, self._base or 0, self._writer.token_ids)
        assert self._state.logits is not None
        piece = self._writer.advance(self._state.logits[0])
        self._decode_seconds += time.perf_counter() - begun
        return piece
