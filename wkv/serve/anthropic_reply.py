"""Conversion of chat replies to the messages and events of `/v1/messages`."""

import json
from collections.abc import Iterator
from typing import Any

from wkv.serve.parse_reply import ReplyParser

Json = dict[str, Any]

SIGNATURE = "wkv"
"""The signature of all thoughts. Nobody needs to verify them."""


def blocks_of(reply: ReplyParser) -> list[Json]:
    """Return the blocks of a whole reply. A call that was cut off is left out."""
    blocks: list[Json] = []
    if reply.reasoning:
        blocks.append({"type": "thinking", "thinking": reply.reasoning, "signature": SIGNATURE})
    if reply.content:
        blocks.append({"type": "text", "text": reply.content})
    calls = reply.calls[:-1] if reply.is_cut else reply.calls
    for call in calls:
        function = call["function"]
        sent = _input_of(function["arguments"])
        blocks.append(_tool_use(call["id"], function["name"], sent))
    return blocks or [{"type": "text", "text": ""}]


def stop_reason(reply: ReplyParser, stop_sequences: tuple[str, ...]) -> tuple[str, str | None]:
    """Return the reason for the end of a reply, and the client's string that ended it."""
    if reply.finish_reason == "length":
        return "max_tokens", None
    if reply.calls and not reply.is_cut:
        return "tool_use", None
    if reply.stop_string in stop_sequences:
        return "stop_sequence", reply.stop_string
    return "end_turn", None


class BlockEvents:
    """The events of the blocks of one reply. Blocks follow each other and never overlap."""

    def __init__(self) -> None:
        self._index = -1
        self._kind = ""  # type of the open block
        self._call = -1  # number of the call in an open tool_use block

    def push(self, delta: Json) -> Iterator[Json]:
        """Yield the events of a delta of the chat API."""
        if delta.get("reasoning"):
            yield from self._open({"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta("thinking_delta", "thinking", delta["reasoning"])
        if delta.get("content"):
            yield from self._open({"type": "text", "text": ""})
            yield self._delta("text_delta", "text", delta["content"])
        for call in delta.get("tool_calls", ()):
            function = call["function"]
            if "id" in call:
                yield from self._close()
                self._call = call["index"]
                yield from self._open(_tool_use(call["id"], function["name"], {}))
            if function.get("arguments") and call["index"] == self._call:
                yield self._delta("input_json_delta", "partial_json", function["arguments"])

    def finish(self) -> Iterator[Json]:
        """Yield the events at the end of the reply; one without content has an empty text."""
        if self._index < 0:
            yield from self._open({"type": "text", "text": ""})
        yield from self._close()

    def _open(self, block: Json) -> Iterator[Json]:
        """Yield the events that begin a block, unless one of its type is open."""
        if self._kind == block["type"] != "tool_use":
            return
        yield from self._close()
        self._index += 1
        self._kind = block["type"]
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[Json]:
        """Yield the events that end the open block."""
        if not self._kind:
            return
        if self._kind == "thinking":
            yield self._delta("signature_delta", "signature", SIGNATURE)
        self._kind = ""
        yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, kind: str, name: str, text: str) -> Json:
        delta = {"type": kind, name: text}
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _tool_use(call_id: str, name: str, sent: Json) -> Json:
    tool_id = f"toolu_{call_id.removeprefix('call_')}"
    return {"type": "tool_use", "id": tool_id, "name": name, "input": sent}


def _input_of(arguments: str) -> Json:
    """Return the arguments of a call as an object."""
    try:
        sent = json.loads(arguments or "{}")
    except ValueError:
        return {}
    return sent if isinstance(sent, dict) else {}
