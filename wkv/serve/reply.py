"""One choice of a chat answer, from raw text to what the client sees; streamed or whole alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wkv.batching import Drawn, Piece
from wkv.chat.thoughts import Thoughts
from wkv.serve.prompt import Message
from wkv.tokenizers import Tokenizer

Json = dict[str, Any]


@dataclass(eq=False)
class Reply:
    """A choice while it comes.

    Attributes:
        lead: what the prompt has of it already.
        goes_on: the client wrote its beginning: there are no thoughts, and blanks mean something.
        content: the answer so far.
        reasoning: the thoughts before it.
        token_ids: what was drawn so far.
        chances: of the tokens, where they were asked for.
        finish_reason: why it ended; None while it goes on.
    """

    lead: str
    goes_on: bool = False
    content: str = ""
    reasoning: str = ""
    token_ids: list[int] = field(default_factory=list)
    chances: list[Drawn] = field(default_factory=list)
    finish_reason: str | None = None
    _thoughts: Thoughts = field(default_factory=Thoughts)

    def __post_init__(self) -> None:
        if not self.goes_on:
            self._thoughts.push(self.lead)

    def push(self, piece: Piece) -> list[Json]:
        """What a piece adds: deltas with `content` or `reasoning`."""
        if piece.token is not None:
            self.token_ids.append(piece.token)
        if piece.drawn is not None:
            self.chances.append(piece.drawn)
        if not piece.text:
            return []
        if self.goes_on:
            return [self._add("content", piece.text)]
        return [
            self._add("reasoning" if part.is_thought else "content", part.text)
            for part in self._thoughts.push(piece.text)
        ]

    def finish(self, reason: str) -> list[Json]:
        """What was held back until the end."""
        self.finish_reason = reason
        return [
            self._add("reasoning" if part.is_thought else "content", part.text)
            for part in self._thoughts.flush()
        ]

    @property
    def message(self) -> Message:
        """The whole message, as it comes back in the history of the next turn."""
        begun = self.lead.lstrip() if self.goes_on else ""
        return Message("assistant", begun + self.content, self.reasoning)

    @property
    def body(self) -> Json:
        """The message as an answer tells it."""
        told: Json = {"role": "assistant", "content": self.content, "refusal": None}
        if self.reasoning:
            told["reasoning"] = self.reasoning
        return told

    def _add(self, kind: str, text: str) -> Json:
        setattr(self, kind, getattr(self, kind) + text)
        return {kind: text}


def chances_body(chances: Sequence[Drawn], tokenizer: Tokenizer) -> Json:
    """The `logprobs` of a chat choice."""

    def told(token: int, log_probability: float) -> Json:
        data = tokenizer.decode_bytes([token])
        text = data.decode("utf-8", "replace")
        # JSON has no infinity; OpenAI's own answers use this for "never".
        return {"token": text, "logprob": max(log_probability, -9999.0), "bytes": list(data)}

    content = []
    for drawn in chances:
        entry = told(drawn.token, drawn.log_probability)
        entry["top_logprobs"] = [told(c.token, c.log_probability) for c in drawn.likeliest]
        content.append(entry)
    return {"content": content, "refusal": None}
