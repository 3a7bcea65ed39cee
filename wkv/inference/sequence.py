"""One sequence that is being generated: logits in, pieces of text out, until something ends it.

It knows neither the model nor the state, so a single sequence, a batch and the server share it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from wkv.errors import InputError
from wkv.inference.sampling import SampledToken, Sampler, Sampling, with_logprobs
from wkv.tokenizers import Tokenizer
from wkv.tokenizers.interface import StreamDecoder

if TYPE_CHECKING:
    from wkv.inference.speculation.drafter import Drafter

LogitsProcessor = Callable[[Tensor, Sequence[int]], Tensor]
"""Takes logits (V,) and the ids sampled so far, returns the logits to sample from.

The given logits are not changed in place. Penalties are applied afterwards.
"""


@runtime_checkable
class DraftGuide(Protocol):
    """The interface of a logits processor that knows which tokens can follow, such as a grammar."""

    def certain(self, sampled: Sequence[int], most: int) -> list[int]:
        """Return up to `most` ids that must follow the sampled ones, because all others cannot."""
        ...

    def cut(self, sampled: Sequence[int], draft: Sequence[int]) -> list[int]:
        """Return the ids of a draft before the first one that cannot follow."""
        ...


class StopStrings:
    """Pass text on until a stop string occurs, however the text is split into pieces.

    Text that could be the beginning of a stop string is held back until that is decided.

    Attributes:
        found: the stop string that is complete; "" while none is.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = ""

    def push(self, text: str) -> str:
        """Add a piece of text; returns the text that may be shown."""
        text = self._held + text
        starts = [(start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if starts:
            end, self.found = min(starts)
            self._held = ""
            return text[:end]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the text that was held back and did not become a stop string."""
        text, self._held = self._held, ""
        return text


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


@dataclass
class DraftCounts:
    """Passes and drafts of one sequence, or the sums over several.

    Attributes:
        passes: passes of the model that have read tokens after the prompt.
        drafted: drafts that these passes have read.
        accepted: drafts that were sampled.
    """

    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens_per_pass(self) -> float:
        """The tokens that a pass has given on average; 0 without passes."""
        return (self.passes + self.accepted) / self.passes if self.passes else 0.0

    def add(self, other: "DraftCounts") -> None:
        """Add the numbers of another sequence."""
        self.passes += other.passes
        self.drafted += other.drafted
        self.accepted += other.accepted


class RunningSequence:
    """One sequence that is being generated.

    Attributes:
        token_ids: the sampled ids, without a final end of text.
        text: the text so far, without the stop string.
        finish_reason: "stop", "length", "interrupted", or None while it is running.
        tokens_before: tokens that the state had seen when generation began.
        sampler: the sampling parameters with the seed in use, and the counts for penalties.
        logits_processor: changes the logits before penalties and sampling; None changes nothing.
        draft_guide: the logits processor, if it knows which drafts can follow.
        drafter: drafts the next tokens, if decoding is speculative.
        draft_counts: passes and drafts so far; zeros without a drafter.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: Sampling,
        max_tokens: int,
        stops: Sequence[str],
        logits_processor: LogitsProcessor | None = None,
        top_logprobs: int | None = None,
        choice: int = 0,
    ) -> None:
        """Prepare a sequence.

        Args:
            tokenizer: of the model.
            sampling: the sampling parameters.
            max_tokens: the largest number of tokens; 0 ends the sequence at once.
            stops: strings that end it.
            logits_processor: changes the logits before penalties and sampling.
            top_logprobs: number of alternatives to report per token; None reports no logprobs.
            choice: number of the choice in the response; choices get different random numbers.
        """
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.tokens_before = 0
        self._tokenizer = tokenizer
        self.sampler = Sampler(sampling, choice)
        self._max_tokens = max_tokens
        self.logits_processor = logits_processor
        # Checked once, because comparing an object with a protocol takes microseconds.
        processor: object = logits_processor
        self.draft_guide = processor if isinstance(processor, DraftGuide) else None
        self.drafter: Drafter | None = None
        self.draft_counts = DraftCounts()
        self._top_logprobs = top_logprobs
        self._decoder = StreamDecoder(tokenizer)
        self._stops = StopStrings(stops)
        if max_tokens == 0:
            self.finish("length")

    @property
    def remaining(self) -> int:
        """The number of tokens that may still be added."""
        return self._max_tokens - len(self.token_ids)

    @property
    def stop_string(self) -> str:
        """The stop string that ended the sequence, or ""."""
        return self._stops.found

    @property
    def end_of_text(self) -> int | None:
        """The id that ends the text, or None if the vocabulary has none."""
        return self._tokenizer.end_of_text

    def accept(self, token: int) -> str:
        """Add a sampled token; returns the text that it completes.

        Sets `finish_reason` if this ends the sequence. An end of text is not added to `token_ids`.
        """
        if token == self._tokenizer.end_of_text:
            return self.finish("stop")
        self.token_ids.append(token)
        self.sampler.record(token, self._tokenizer.decode([token]))
        piece = self._stops.push(self._decoder.push(token))
        self.text += piece
        if self._stops.found:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self._max_tokens:
            piece += self.finish("length")
        return piece

    def logprobs(self, logits: Tensor) -> SampledToken | None:
        """Return the logprobs of the last token, from the logits (V,) of the model, if wanted."""
        if self._top_logprobs is None:
            return None
        return with_logprobs(logits[None], self.token_ids[-1:], self._top_logprobs)[0]

    def unread(self, tokens_seen: int) -> list[int]:
        """Return the sampled ids that a state which has seen `tokens_seen` tokens lacks."""
        return self.token_ids[tokens_seen - self.tokens_before :]

    def finish(self, reason: str) -> str:
        """End the sequence for a reason; returns the text that was held back until now."""
        rest = self._stops.push(self._decoder.flush())
        if not self._stops.found:
            rest += self._stops.flush()
        self.finish_reason = reason
        self.text += rest
        return rest


def check_limits(max_tokens: int, stop: str | Sequence[str]) -> tuple[str, ...]:
    """Return the stop strings as a tuple.

    Raises:
        InputError: if the number of tokens is negative, or a stop string is empty or not text.
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
