"""Items of `/v1/responses`: conversion of requests to chat requests, and of replies to items."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wkv.serve.chat_messages import NO_IMAGE
from wkv.serve.parse_reply import ReplyParser
from wkv.serve.protocol.errors import ApiError, Location, dotted
from wkv.serve.protocol.requests import ChatMessage, ChatRequest, ResponseRequest
from wkv.serve.response_tools import OfferedTools, call_of

Json = dict[str, Any]

TEXT_PARTS = ("input_text", "output_text")
PICTURES = ("input_image", "input_file")

ITEM, TEXT = "response.output_item", "response.output_text"
REASONING = "response.reasoning_text"
ARGUMENTS = "response.function_call_arguments"
CUSTOM_INPUT = "response.custom_tool_call_input"

REFUSED = ("conversation", "prompt")
"""Fields that refer to what OpenAI's servers store."""

CALLS = (
    "function_call",
    "custom_tool_call",
    "local_shell_call",
    "shell_call",
    "apply_patch_call",
    "tool_search_call",
)
"""Types of items that are calls; the results have the ending `_output`."""

WITHOUT_TEXT = ("reasoning", "item_reference", "additional_tools")
"""Types of items that add nothing to the prompt. The reasoning of earlier turns is not read again,
and additional tools are offered with the others."""

RENAMED: dict[Location, Location] = {
    ("max_completion_tokens",): ("max_output_tokens",),
    ("reasoning_effort",): ("reasoning", "effort"),
    ("response_format", "json_schema"): ("text", "format"),
    ("response_format",): ("text", "format"),
}
"""Locations in a chat request, and the same ones in a request to `/v1/responses`."""

OUTPUT_NAMES = {"content": "output", "tool_call_id": "call_id"}
"""Fields of a tool's message, and the same ones of an item with the output of a call."""


@dataclass
class Origin:
    """The part of a request that became a chat message.

    Attributes:
        location: its location in the request.
        names: names of its fields that differ from those of the message; None: it has no fields.
        calls: the locations of the items that became tool calls of the message.
    """

    location: Location
    names: dict[str, str] | None = None
    calls: list[Location] = field(default_factory=list)


@dataclass
class Conversation:
    """Chat messages and their origins, and the tools that are offered."""

    messages: list[Json] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    tools: OfferedTools = field(default_factory=OfferedTools)

    def add(self, message: Json, origin: Origin) -> None:
        """Add a message."""
        self.messages.append(message)
        self.origins.append(origin)

    def path(self, location: Location) -> str:
        """Return the path in the request of a location in the chat request."""
        match location:
            case ("messages", int(index), "tool_calls", int(call), *rest) if self.origins[
                index
            ].calls:
                origin = self.origins[index].calls[call]
                return dotted((*origin, *_renamed(rest, {"id": "call_id", "function": ""})))
            case ("messages", int(index), *rest):
                origin, names = self.origins[index].location, self.origins[index].names
                return dotted((*origin, *(() if names is None else _renamed(rest, names))))
            case ("messages", *_):
                return "input"
            case ("tools", int(index), *rest) if index < len(self.tools.paths):
                return dotted((*self.tools.paths[index], *_renamed(rest, {"function": ""})))
        for chat, own in RENAMED.items():
            if location[: len(chat)] == chat:
                return dotted((*own, *location[len(chat) :]))
        return dotted(location)


def _renamed(location: Sequence[str | int], names: Mapping[str, str]) -> Location:
    """Return a location with other names; names that become "" are left out."""
    return tuple(name for part in location if (name := names.get(str(part), part)) != "")


@dataclass(frozen=True)
class ConvertedRequest:
    """A request to `/v1/responses` in the form of the chat API.

    Attributes:
        chat: the chat request.
        messages: the messages that the response is stored with.
        tools: the tools that the request offers.
    """

    chat: ChatRequest
    messages: list[Json]
    tools: OfferedTools


def chat_request(body: ResponseRequest, history: list[Json], *, thinks: bool) -> ConvertedRequest:
    """Convert a request to a chat request.

    Args:
        body: the request.
        history: the messages of the previous responses.
        thinks: whether the model was trained to think; for others, the effort has no meaning.

    Raises:
        ApiError: if the request is invalid; it names the fields of `/v1/responses`.
    """
    for name in REFUSED:
        if (body.model_extra or {}).get(name):
            raise ApiError(400, f"{name} is not supported here; leave it out", param=name)
    tools = OfferedTools()
    conversation = Conversation(tools=tools)
    tools.add(body.tools or (), ("tools",))
    if body.instructions:
        system = {"role": "system", "content": body.instructions}
        conversation.add(system, Origin(("instructions",)))
    n_system = len(conversation.messages)
    for message in history:
        conversation.add(message, Origin(("previous_response_id",)))
    if isinstance(body.input, str):
        message = {"role": "user", "content": body.input}
        conversation.add(message, Origin(("input",)))
    else:
        previous_end = len(conversation.messages)
        for number, item in enumerate(body.input):
            _add_item(conversation, item, ("input", number), previous_end)
    if not conversation.messages:  # some agents probe a server with nothing
        conversation.add({"role": "user", "content": ""}, Origin(("input",)))
    effort = body.reasoning and body.reasoning.effort
    fields = {
        "model": body.model,
        "state": body.state,
        "messages": conversation.messages,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "parallel_tool_calls": body.parallel_tool_calls,
        "reasoning_effort": effort,
        "tools": tools.functions or None,
        "tool_choice": _choice(body, tools),
        "response_format": _response_format(body.text.format if body.text else None),
    }
    request = ChatRequest.converted(fields, conversation.path)
    wanted = (body.text and body.text.format) or {}
    if wanted.get("type") == "json_schema" and "schema" not in wanted:
        missing = "text.format.schema is missing; give a JSON schema"
        raise ApiError(400, missing, param="text.format.schema", code="invalid_value")
    if not thinks:
        request.reasoning_effort = None
    return ConvertedRequest(request, conversation.messages[n_system:], tools)


def chat_messages(items: Sequence[Json]) -> list[ChatMessage]:
    """Return the chat messages of items.

    Raises:
        ApiError: if an item is invalid; names its place in `input`.
    """
    conversation = Conversation()
    for number, item in enumerate(items):
        _add_item(conversation, item, ("input", number), 0)
    fields = {"messages": conversation.messages}
    return ChatRequest.converted(fields, conversation.path).messages


def _choice(body: ResponseRequest, tools: OfferedTools) -> Any:
    """Return the `tool_choice`; "auto" means nothing if the model can call none of the tools."""
    choice = tools.choice(body.tool_choice)
    return None if choice == "auto" and body.tools and not tools.functions else choice


def _add_item(conversation: Conversation, item: Json, location: Location, begin: int) -> None:
    """Add an item of the input; calls are added to the message before, from `begin` on."""
    messages = conversation.messages
    kind = item.get("type", "message")
    if kind == "message":
        message = {"role": item.get("role"), "content": _content(item.get("content"))}
        conversation.add(message, Origin(location, names={}))
    elif kind in CALLS:
        call = call_of(item)
        if len(messages) > begin and messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"].append(call)
            conversation.origins[-1].calls.append(location)
        else:
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
            conversation.add(message, Origin(location, calls=[location]))
    elif isinstance(kind, str) and kind.removesuffix("_output") in CALLS:
        message = {"role": "tool", "tool_call_id": item.get("call_id")}
        message["content"] = _result(item.get("output"))
        conversation.add(message, Origin(location, names=OUTPUT_NAMES))
    elif kind == "additional_tools" and isinstance(item.get("tools"), list):
        conversation.tools.add(item["tools"], (*location, "tools"))
    elif kind not in WITHOUT_TEXT:
        param = dotted((*location, "type"))
        raise ApiError(400, f"items of the type {kind!r:.60} are not supported", param=param)


def items_of(
    reply: ReplyParser, response_id: str, tools: OfferedTools, status: str = "completed"
) -> list[Json]:
    """Return the output items of a reply: reasoning, text and tool calls, if there are any."""
    items: list[Json] = []
    if reply.reasoning:
        content = [{"type": "reasoning_text", "text": reply.reasoning}]
        item_id = _item_id(response_id, "rs")
        items.append({"type": "reasoning", "id": item_id, "summary": [], "content": content})
    if reply.content or not (reply.calls or reply.reply_format.forces_call):
        text = {"type": "output_text", "text": reply.content, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": _item_id(response_id, "msg"), "status": status}
        items.append(message | {"role": "assistant", "content": [text]})
    for number, call in enumerate(reply.calls, 1):
        is_cut = reply.is_cut and number == len(reply.calls)
        items.append(tools.item(call, "incomplete" if is_cut else "completed"))
    return items


class ItemEvents:
    """The events of a streamed reply: each item is added, grows and is done."""

    def __init__(self, reply: ReplyParser, response_id: str, tools: OfferedTools) -> None:
        self._reply = reply
        self._tools = tools
        self._response_id = response_id
        self._done_items = 0
        self._open_kind = ""  # type of the unfinished item: "", "reasoning" or "message"

    def push(self, delta: Json) -> Iterator[Json]:
        """Yield the events for a delta of a chat reply. Tool calls follow at the end."""
        if delta.get("reasoning"):
            yield from self._open("reasoning")
            yield {"type": f"{REASONING}.delta", **self._place(), "delta": delta["reasoning"]}
        elif delta.get("content"):
            yield from self._open("message")
            text = {"delta": delta["content"], "logprobs": []}
            yield {"type": f"{TEXT}.delta", **self._place(), **text}

    def finish(self, status: str) -> Iterator[Json]:
        """Yield the remaining events after the end of the reply."""
        items = items_of(self._reply, self._response_id, self._tools, status)
        for item in items[self._done_items :]:
            if item["type"] in ("function_call", "custom_tool_call"):
                yield from self._call(item)
            else:
                yield from self._open(item["type"])
                yield from self._close(item)

    def _open(self, kind: str) -> Iterator[Json]:
        """Yield the events before the first delta of an item; the item before it ends."""
        if self._open_kind == kind:
            return
        if self._open_kind:
            items = items_of(self._reply, self._response_id, self._tools)
            yield from self._close(items[self._done_items])
        self._open_kind = kind
        if kind == "reasoning":
            item: Json = {"type": kind, "id": _item_id(self._response_id, "rs"), "summary": []}
            yield {"type": f"{ITEM}.added", "output_index": self._done_items, "item": item}
            return
        item = {"type": kind, "id": _item_id(self._response_id, "msg"), "status": "in_progress"}
        item |= {"role": "assistant", "content": []}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield {"type": f"{ITEM}.added", "output_index": self._done_items, "item": item}
        yield {"type": "response.content_part.added", **self._place(), "part": part}

    def _close(self, item: Json) -> Iterator[Json]:
        """Yield the events after the last delta of an item."""
        part = item["content"][0]
        if self._open_kind == "reasoning":
            yield {"type": f"{REASONING}.done", **self._place(), "text": part["text"]}
        else:
            done = {"text": part["text"], "logprobs": []}
            yield {"type": f"{TEXT}.done", **self._place(), **done}
            yield {"type": "response.content_part.done", **self._place(), "part": part}
        yield self._done(item)
        self._open_kind = ""

    def _call(self, item: Json) -> Iterator[Json]:
        """Yield all events of a tool call."""
        index = self._done_items
        is_custom = item["type"] == "custom_tool_call"
        part = "input" if is_custom else "arguments"
        yield {"type": f"{ITEM}.added", "output_index": index, "item": {**item, part: ""}}
        place = {"item_id": item["id"], "output_index": index}
        kind = CUSTOM_INPUT if is_custom else ARGUMENTS
        name = {} if is_custom else {"name": item["name"]}
        yield {"type": f"{kind}.delta", **place, "delta": item[part]}
        yield {"type": f"{kind}.done", **place, part: item[part], **name}
        yield self._done(item)

    def _done(self, item: Json) -> Json:
        self._done_items += 1
        return {"type": f"{ITEM}.done", "output_index": self._done_items - 1, "item": item}

    def _place(self) -> Json:
        item_id = _item_id(self._response_id, "rs" if self._open_kind == "reasoning" else "msg")
        return {"item_id": item_id, "output_index": self._done_items, "content_index": 0}


def _content(content: Any) -> Any:
    """Convert the parts of a content to those of a chat message."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part.get("text")}
        if isinstance(part, dict) and part.get("type") in TEXT_PARTS
        else part
        for part in content
    ]


def _result(output: Any) -> Any:
    """Return the result of a call: a text, or parts. Pictures become a note, and objects JSON."""
    if isinstance(output, list):
        is_picture = [isinstance(p, dict) and p.get("type") in PICTURES for p in output]
        note = {"type": "input_text", "text": NO_IMAGE}
        return _content([note if image else p for p, image in zip(output, is_picture, strict=True)])
    if isinstance(output, dict):
        return json.dumps(output, ensure_ascii=False)
    return output


def _response_format(wanted: Json | None) -> Json | None:
    if wanted is None or wanted.get("type") != "json_schema":
        return wanted
    schema = {key: value for key, value in wanted.items() if key != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _item_id(response_id: str, prefix: str) -> str:
    return f"{prefix}_{response_id.removeprefix('resp_')}"
