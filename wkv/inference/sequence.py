"""One sequence being written: logits in, pieces of text out, until something ends it.

It knows no model and no state, so one sequence alone, a batch, or a server's slots can share it.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from wkv.errors import InputError
from wkv.inference.sampling import Sampler, Sampling
from wkv.tokenizers import Tokenizer
from wkv.tokenizers.interface import StreamDecoder

Adjust = Callable[[Tensor, Sequence[int]], Tensor]
"""Logits (V,) and the ids drawn so far, to the logits that are drawn from; nothing in place."""


class StopStrings:
    """Passes text on until a stop string occurs, across any cuts between the pieces.

    Text that could be the beginning of a stop string is held back until that is decided.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that may be shown; sets `found` when a stop string is complete."""
        text = self._held + text
        starts = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        if starts:
            self.found = True
            self._held = ""
            return text[: min(starts)]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back and is no stop string after all."""
        text, self._held = self._held, ""
        return text


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class Writer:
    """One sequence being written.

    Where `adjust` is given, it changes the logits before penalties do.

    Attributes:
        token_ids: what was drawn, without a final end of text.
        text: what was said, without the stop string.
        finish_reason: "stop", "length", "interrupted", or None while it goes on.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: Sampling,
        max_tokens: int,
        stops: Sequence[str],
        adjust: Adjust | None = None,
    ) -> None:
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self._tokenizer = tokenizer
        self._sampler = Sampler(sampling)
        self._max_tokens = max_tokens
        self._adjust = adjust
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(stops)
        if max_tokens == 0:
            self.finish("length")

    def advance(self, logits: Tensor) -> str:
        """Draw the next token from logits (V,) and return the text it completes.

        Sets `finish_reason` if this ends the sequence. An end of text is not in `token_ids`.
        """
        if self._adjust is not None:
            logits = self._adjust(logits, self.token_ids)
        token = self._sampler.draw(logits)
        if token == self._tokenizer.end_of_text:
            return self.finish("stop")
        self.token_ids.append(token)
        self._sampler.record(token, self._tokenizer.decode([token]))
        piece = self._stops.push(self._decoder.push(token))
        self.text += piece
        if self._stops.found:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self._max_tokens:
            piece += self.finish("length")
        return piece

    def finish(self, reason: str) -> str:
        """End the sequence for a reason; returns the text that was held back until now."""
        rest = self._stops.push(self._decoder.flush())
        if not self._stops.found:
            rest += self._stops.flush()
        self.finish_reason = reason
        self.text += rest
        return rest


def check_limits(max_tokens: int, stop: str | Sequence[str]) -> tuple[str, ...]:
    """The stop strings as a tuple.

    Raises:
        InputError: for an impossible number of tokens, or a stop string that is empty or no text.
    """
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 0:
        raise InputError(f"max_tokens is {max_tokens!r}, expected a whole number, 0 or more")
    if not isinstance(stop, (str, Sequence)) or isinstance(stop, bytes):
        raise InputError(f"stop is {stop!r}, expected a text or a list of texts")
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    for text in stops:
        if not isinstance(text, str) or not text:
            raise InputError(f"a stop string is {text!r}, expected text of at least one character")
    return stops
