"""The items of `/v1/responses`: what comes in as a chat request, and what goes out of a reply."""

from collections.abc import Iterator
from typing import Any

from wkv.serve.errors import ApiError
from wkv.serve.parse_reply import Reply
from wkv.serve.requests import ResponseRequest

Json = dict[str, Any]

PARTS = ("input_text", "output_text")

ITEM, TEXT = "response.output_item", "response.output_text"
THOUGHT = "response.reasoning_text"
ARGUMENTS = "response.function_call_arguments"


def chat_fields(body: ResponseRequest, messages: list[Json]) -> Json:
    """The chat request that answers a conversation as a responses request wants it."""
    system = [{"role": "system", "content": body.instructions}] if body.instructions else []
    return {
        "messages": [*system, *messages],
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "parallel_tool_calls": body.parallel_tool_calls,
        "reasoning_effort": (body.reasoning or {}).get("effort"),
        "tools": [_tool(tool) for tool in body.tools] if body.tools else None,
        "tool_choice": _tool_choice(body.tool_choice),
        "response_format": _format(body.text),
    }


def messages_of(body: ResponseRequest) -> list[Json]:
    """The input as chat messages.

    Raises:
        ApiError: for an item that no model here can read.
    """
    if isinstance(body.input, str):
        return [{"role": "user", "content": body.input}]
    messages: list[Json] = []
    for number, item in enumerate(body.input):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _content(item.get("content"))})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            result = {"role": "tool", "tool_call_id": item.get("call_id")}
            messages.append(result | {"content": _content(item.get("output"))})
        elif kind != "reasoning":  # thoughts of earlier turns are not read again
            param = f"input.{number}.type"
            raise ApiError(400, f"items of the type {kind!r:.60} are not supported", param=param)
    return messages


def items_of(reply: Reply, name: str, status: str = "completed") -> list[Json]:
    """The output items of a reply: thoughts, text, calls; those that are there."""
    items: list[Json] = []
    if reply.reasoning:
        thoughts = [{"type": "reasoning_text", "text": reply.reasoning}]
        items.append(
            {"type": "reasoning", "id": _item(name, "rs"), "summary": [], "content": thoughts}
        )
    if reply.content or not reply.calls:
        text = {"type": "output_text", "text": reply.content, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": _item(name, "msg"), "status": status}
        items.append(message | {"role": "assistant", "content": [text]})
    for call in reply.calls:
        function = call["function"]
        item = {"type": "function_call", "id": f"fc_{call['id']}", "call_id": call["id"]}
        items.append(item | function | {"status": "completed"})
    return items


class ItemEvents:
    """The events that tell a streamed reply, item by item, each added and then done."""

    def __init__(self, reply: Reply, name: str) -> None:
        """Begin to tell the reply of a response of some name."""
        self._reply = reply
        self._name = name
        self._done_items = 0
        self._open_kind = ""  # of the item that is being told: "", "reasoning" or "message"

    def told(self, delta: Json) -> Iterator[Json]:
        """What a delta of a chat reply adds; calls are told whole, at the end."""
        if delta.get("reasoning"):
            yield from self._open("reasoning")
            yield {"type": f"{THOUGHT}.delta", **self._place(), "delta": delta["reasoning"]}
        elif delta.get("content"):
            yield from self._open("message")
            text = {"delta": delta["content"], "logprobs": []}
            yield {"type": f"{TEXT}.delta", **self._place(), **text}

    def rest(self, status: str) -> Iterator[Json]:
        """What is left to tell when the reply has ended."""
        items = items_of(self._reply, self._name, status)
        for item in items[self._done_items :]:
            if item["type"] == "function_call":
                yield from self._call(item)
            else:
                yield from self._open(item["type"])
                yield from self._close(item)

    def _open(self, kind: str) -> Iterator[Json]:
        """The events before the first piece of an item; the one before it has ended then."""
        if self._open_kind == kind:
            return
        if self._open_kind:
            yield from self._close(items_of(self._reply, self._name)[self._done_items])
        self._open_kind = kind
        if kind == "reasoning":
            item: Json = {"type": kind, "id": _item(self._name, "rs"), "summary": []}
            yield {"type": f"{ITEM}.added", "output_index": self._done_items, "item": item}
            return
        item = {"type": kind, "id": _item(self._name, "msg"), "status": "in_progress"}
        item |= {"role": "assistant", "content": []}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield {"type": f"{ITEM}.added", "output_index": self._done_items, "item": item}
        yield {"type": "response.content_part.added", **self._place(), "part": part}

    def _close(self, item: Json) -> Iterator[Json]:
        """The events after the last piece of an item."""
        part = item["content"][0]
        if self._open_kind == "reasoning":
            yield {"type": f"{THOUGHT}.done", **self._place(), "text": part["text"]}
        else:
            done = {"text": part["text"], "logprobs": []}
            yield {"type": f"{TEXT}.done", **self._place(), **done}
            yield {"type": "response.content_part.done", **self._place(), "part": part}
        yield self._done(item)
        self._open_kind = ""

    def _call(self, item: Json) -> Iterator[Json]:
        """A call, at once."""
        index = self._done_items
        opened = {**item, "arguments": ""}
        yield {"type": f"{ITEM}.added", "output_index": index, "item": opened}
        at = {"item_id": item["id"], "output_index": index}
        arguments, name = item["arguments"], item["name"]
        yield {"type": f"{ARGUMENTS}.delta", **at, "delta": arguments}
        yield {"type": f"{ARGUMENTS}.done", **at, "arguments": arguments, "name": name}
        yield self._done(item)

    def _done(self, item: Json) -> Json:
        self._done_items += 1
        return {"type": f"{ITEM}.done", "output_index": self._done_items - 1, "item": item}

    def _place(self) -> Json:
        item = _item(self._name, "rs" if self._open_kind == "reasoning" else "msg")
        return {"item_id": item, "output_index": self._done_items, "content_index": 0}


def _content(content: Any) -> Any:
    """Parts by the names they have in chat."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part.get("text")}
        if isinstance(part, dict) and part.get("type") in PARTS
        else part
        for part in content
    ]


def _tool(tool: Json) -> Json:
    function = {key: value for key, value in tool.items() if key != "type"}
    return {"type": tool.get("type"), "function": function}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict):
        return {"type": choice.get("type"), "function": {"name": choice.get("name")}}
    return choice


def _format(text: Json | None) -> Json | None:
    form = (text or {}).get("format")
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return form
    return {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}


def _item(name: str, kind: str) -> str:
    return f"{kind}_{name.removeprefix('resp_')}"
