"""One choice of a chat answer, from raw text to what the client sees; streamed or whole alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from wkv.batching import TextEvent
from wkv.inference.sampling import SampledToken
from wkv.prompting.template import Message
from wkv.prompting.thinking import ThoughtPiece as Part
from wkv.prompting.thinking import Thoughts
from wkv.prompting.tool_calls import CallBegun, CallEvent, TextPiece, ToolCallParser
from wkv.prompting.tool_types import Call
from wkv.serve.response_format import ReplyFormat, assistant_text
from wkv.tokenizers import Tokenizer

Json = dict[str, Any]


@dataclass(eq=False)
class Reply:
    """A choice while it comes.

    Attributes:
        assistant_prefix: what the prompt has of it already.
        goes_on: the client wrote its beginning: there are no thoughts, and blanks mean something.
        form: that it has.
        content: the answer so far.
        reasoning: the thoughts before it.
        calls: of tools, as an answer tells them.
        token_ids: what was drawn so far.
        characters: of the text that was given so far; the tokens may hold more.
        reasoning_tokens: of the tokens, those before the answer began.
        is_whole: nothing of the text was left out.
        top_logprobs: of the tokens, where they were asked for.
        finish_reason: why it ended; None while it goes on.
    """

    assistant_prefix: str
    goes_on: bool = False
    form: ReplyFormat = field(default_factory=ReplyFormat)
    content: str = ""
    reasoning: str = ""
    calls: list[Json] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    characters: int = 0
    reasoning_tokens: int = 0
    is_whole: bool = True
    top_logprobs: list[SampledToken] = field(default_factory=list)
    finish_reason: str | None = None
    _thoughts: Thoughts = field(default_factory=Thoughts)
    _parser: ToolCallParser | None = None

    def __post_init__(self) -> None:
        if not self.goes_on:
            self._thoughts.push(self.assistant_prefix)
        if self.form.names:
            self._parser = ToolCallParser(
                self.form.names, assistant_prefix=self.form.assistant_prefix or ""
            )

    def push(self, piece: TextEvent) -> list[Json]:
        """What a piece adds: deltas with `content`, `reasoning` or `tool_calls`."""
        if piece.token is not None:
            self.token_ids.append(piece.token)
        if piece.logprobs is not None:
            self.top_logprobs.append(piece.logprobs)
        if not piece.text:
            return []
        self.characters += len(piece.text)
        if self.goes_on:
            return self._answered(piece.text)
        deltas = self._told(self._thoughts.push(piece.text))
        if self.reasoning and not self.content and not self.calls:
            self.reasoning_tokens = len(self.token_ids)
        return deltas

    def finish(self, reason: str) -> list[Json]:
        """What was held back until the end."""
        deltas = [] if self.goes_on else self._told(self._thoughts.flush())
        if self._parser is not None:
            deltas += self._events(self._parser.flush())
        self.finish_reason = "tool_calls" if self.calls and reason == "stop" else reason
        return deltas

    @property
    def message(self) -> Message:
        """The whole message, as it comes back in the history of the next turn."""
        begun = self.assistant_prefix.lstrip() if self.goes_on else ""
        calls = tuple(
            Call(call["function"]["name"], call["function"]["arguments"]) for call in self.calls
        )
        return Message("assistant", begun + assistant_text(self.content, calls), self.reasoning)

    @property
    def body(self) -> Json:
        """The message as an answer tells it."""
        content = None if self.calls and not self.content else self.content
        told: Json = {"role": "assistant", "content": content, "refusal": None}
        if self.reasoning:
            told["reasoning"] = self.reasoning
        if self.calls:
            told["tool_calls"] = self.calls
        return told

    def _told(self, parts: Iterable[Part]) -> list[Json]:
        deltas: list[Json] = []
        for part in parts:
            if part.is_thought:
                self.reasoning += part.text
                deltas.append({"reasoning": part.text})
            else:
                deltas += self._answered(part.text)
        return deltas

    def _answered(self, text: str) -> list[Json]:
        if self._parser is not None:
            return self._events(self._parser.push(text))
        self.content += text
        return [{"content": text}]

    def _events(self, events: Iterable[CallEvent]) -> list[Json]:
        """Text and calls; where only one call is wanted, nothing after it."""
        deltas: list[Json] = []
        for event in events:
            if isinstance(event, TextPiece):
                if self.calls:
                    self.is_whole = self.is_whole and not event.text.strip()
                    continue
                self.content += event.text
                deltas.append({"content": event.text})
            elif event.index > 0 and not self.form.parallel:
                self.is_whole = False
            elif isinstance(event, CallBegun):
                call: Json = {"id": event.id, "type": "function"}
                call |= {"function": {"name": event.name, "arguments": ""}}
                self.calls.append(call)
                function = {"name": event.name, "arguments": ""}
                deltas.append(_call_delta(event.index, call | {"function": function}))
            else:
                self.calls[event.index]["function"]["arguments"] += event.fragment
                function = {"arguments": event.fragment}
                deltas.append(_call_delta(event.index, {"function": function}))
        return deltas


def _call_delta(index: int, call: Json) -> Json:
    return {"tool_calls": [{"index": index, **call}]}


def chances_body(top_logprobs: Sequence[SampledToken], tokenizer: Tokenizer) -> Json:
    """The `logprobs` of a chat choice."""

    def told(token: int, logprob: float) -> Json:
        data = tokenizer.decode_bytes([token])
        text = data.decode("utf-8", "replace")
        # JSON has no infinity; OpenAI's own answers use this for "never".
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(data)}

    content = []
    for drawn in top_logprobs:
        entry = told(drawn.token, drawn.logprob)
        entry["top_logprobs"] = [told(c.token, c.logprob) for c in drawn.top_logprobs]
        content.append(entry)
    return {"content": content, "refusal": None}
