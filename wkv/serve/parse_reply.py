"""Parsing of a chat reply: from raw text to content, reasoning and tool calls, piece by piece."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from wkv.batching import TextEvent
from wkv.inference.sampling import SampledToken
from wkv.prompting.template import Message
from wkv.prompting.thinking import ThoughtPiece, Thoughts
from wkv.prompting.tool_calls import CallBegun, CallEvent, TextPiece, ToolCallParser
from wkv.prompting.tool_types import Call
from wkv.serve.build_constraints import ReplyFormat
from wkv.serve.chat_messages import assistant_text
from wkv.tokenizers import Tokenizer

Json = dict[str, Any]

MIN_LOGPROB = -9999.0
"""The value for minus infinity, which JSON lacks; OpenAI's API uses the same."""


@dataclass(eq=False)
class ReplyParser:
    """Parses one choice of a chat reply.

    Attributes:
        assistant_prefix: the beginning of the reply, which the prompt contains. It never becomes
            part of the content, the reasoning or a call.
        continues: whether `assistant_prefix` is the client's last message, which the reply
            completes. Such a reply has no reasoning, and its leading blanks are content.
        reply_format: the format of the reply.
        content: the answer so far.
        reasoning: the reasoning before the answer.
        calls: the tool calls, as the response contains them.
        token_ids: the sampled ids so far.
        characters: the length of the text so far; the tokens may contain more.
        reasoning_tokens: the number of tokens before the answer.
        is_whole: whether the response contains the whole text.
        is_cut: whether the last call lacks its end.
        logprobs: those of the tokens, if the request asks for them. A stream clears them.
        has_reported_token: whether a token with more than blanks is in a body of `logprobs_body`.
        finish_reason: the reason for the end; None before it.
        stop_string: the stop string that ended the reply, or "".
    """

    assistant_prefix: str
    continues: bool = False
    reply_format: ReplyFormat = field(default_factory=ReplyFormat)
    content: str = ""
    reasoning: str = ""
    calls: list[Json] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    characters: int = 0
    reasoning_tokens: int = 0
    is_whole: bool = True
    is_cut: bool = False
    logprobs: list[SampledToken] = field(default_factory=list)
    has_reported_token: bool = False
    finish_reason: str | None = None
    stop_string: str = ""
    _call_parser: ToolCallParser | None = None

    def __post_init__(self) -> None:
        self._thoughts = Thoughts(self.assistant_prefix)
        if self.reply_format.tool_names:
            prefix = self.reply_format.assistant_prefix or ""
            self._call_parser = ToolCallParser(
                self.reply_format.tool_names, assistant_prefix=prefix
            )

    def push(self, event: TextEvent) -> list[Json]:
        """Add text; returns deltas with `content`, `tool_calls`, or `reasoning` under two names."""
        if event.token is not None:
            self.token_ids.append(event.token)
        if event.logprobs is not None:
            self.logprobs.append(event.logprobs)
        if not event.text:
            return []
        self.characters += len(event.text)
        if self.continues:
            return self._answer_deltas(event.text)
        deltas = self._deltas(self._thoughts.push(event.text))
        if self.reasoning and not self.content and not self.calls:
            self.reasoning_tokens = len(self.token_ids)
        return deltas

    def finish(self, reason: str) -> list[Json]:
        """End the reply; returns deltas with the text that was held back.

        A forced call that was cut off is part of the reply as far as it is known.
        """
        deltas = [] if self.continues else self._deltas(self._thoughts.flush())
        if self._call_parser is not None:
            deltas += self._call_deltas(self._call_parser.flush())
            self.is_cut = self._call_parser.is_cut
        self.is_whole = self.is_whole and not self.is_cut
        has_calls = bool(self.calls) and not self.is_cut
        self.finish_reason = "tool_calls" if has_calls and reason == "stop" else reason
        return deltas

    @property
    def message(self) -> Message:
        """The whole message, as the client sends it back in the next turn."""
        prefix = self.assistant_prefix.lstrip() if self.continues else ""
        calls = [
            Call(call["function"]["name"], call["function"]["arguments"]) for call in self.calls
        ]
        return Message("assistant", prefix + assistant_text(self.content, calls), self.reasoning)

    @property
    def body(self) -> Json:
        """The message, as the response contains it."""
        is_call = self.calls or self.reply_format.forces_call
        content = None if is_call and not self.content else self.content
        message: Json = {"role": "assistant", "content": content, "refusal": None}
        if self.reasoning:  # clients read one name or the other
            message["reasoning"] = message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        return message

    def _deltas(self, pieces: Iterable[ThoughtPiece]) -> list[Json]:
        deltas: list[Json] = []
        for piece in pieces:
            if piece.is_thought:
                self.reasoning += piece.text
                deltas.append({"reasoning": piece.text, "reasoning_content": piece.text})
            else:
                deltas += self._answer_deltas(piece.text)
        return deltas

    def _answer_deltas(self, text: str) -> list[Json]:
        if self._call_parser is not None:
            return self._call_deltas(self._call_parser.push(text))
        self.content += text
        return [{"content": text}]

    def _call_deltas(self, events: Iterable[CallEvent]) -> list[Json]:
        """Return deltas for text and calls, without text after a call and unwanted calls."""
        deltas: list[Json] = []
        for event in events:
            if isinstance(event, TextPiece):
                if self.calls:
                    self.is_whole = self.is_whole and not event.text.strip()
                    continue
                self.content += event.text
                deltas.append({"content": event.text})
            elif event.index > 0 and not self.reply_format.parallel:
                self.is_whole = False
            elif isinstance(event, CallBegun):
                call: Json = {"id": event.id, "type": "function"}
                self.calls.append(call | {"function": {"name": event.name, "arguments": ""}})
                function = {"name": event.name, "arguments": ""}
                deltas.append(_call_delta(event.index, call | {"function": function}))
            else:
                self.calls[event.index]["function"]["arguments"] += event.fragment
                function = {"arguments": event.fragment}
                deltas.append(_call_delta(event.index, {"function": function}))
        return deltas


def _call_delta(index: int, call: Json) -> Json:
    return {"tool_calls": [{"index": index, **call}]}


def logprobs_body(reply: ReplyParser, tokenizer: Tokenizer) -> Json:
    """Return the `logprobs` of a chat choice, for the tokens in `reply.logprobs`.

    As in the content, blanks at the beginning of the reply are left out.
    """
    content = []
    for sampled in reply.logprobs:
        data = tokenizer.decode_bytes([sampled.token])
        begins = not (reply.has_reported_token or reply.continues)
        data = data.lstrip() if begins else data
        if begins and not data:
            continue
        reply.has_reported_token = True
        top = []
        for other in sampled.top_logprobs:
            raw = tokenizer.decode_bytes([other.token])
            top.append(_entry(raw.lstrip() or raw if begins else raw, other.logprob))
        content.append(_entry(data, sampled.logprob) | {"top_logprobs": top})
    return {"content": content, "refusal": None}


def _entry(data: bytes, logprob: float) -> Json:
    text = data.decode("utf-8", "replace")
    return {"token": text, "logprob": max(logprob, MIN_LOGPROB), "bytes": list(data)}
