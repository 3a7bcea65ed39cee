"""Conversion of requests to `/v1/messages` to chat requests.

Each message becomes one or several chat messages: a `tool_result` is a message of its own. Errors
name the fields of the request that the client sent.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from wkv.serve.chat_messages import NO_IMAGE
from wkv.serve.protocol.anthropic import REFUSED, MessagesBody, MessagesRequest
from wkv.serve.protocol.errors import ApiError, Location, dotted
from wkv.serve.protocol.requests import ChatRequest

Json = dict[str, Any]

BILLING = "x-anthropic-billing-header"
"""The beginning of a system block that an agent changes with every request."""

USER_BLOCKS = ("text", "tool_result", "tool_reference")
ASSISTANT_BLOCKS = ("text", "thinking", "redacted_thinking", "tool_use")
RESULT_BLOCKS = ("text", "image", "tool_reference")

EFFORTS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "xhigh"}

SMALL_BUDGET, LARGE_BUDGET = 2048, 8192
"""Thinking budgets below and above which the effort is low and high."""

CHOICES = {"auto": "auto", "any": "required", "none": "none"}


@dataclass
class ChatFields:
    """Chat messages, and the locations in the request from which they were made."""

    messages: list[Json] = field(default_factory=list)
    origins: list[Location] = field(default_factory=list)

    def add(self, message: Json, origin: Location) -> None:
        """Add a message."""
        self.messages.append(message)
        self.origins.append(origin)

    def path(self, location: Location) -> str:
        """Return the path in the request of a location in the chat request."""
        renamed: dict[str, Location] = {
            "stop": ("stop_sequences",),
            "response_format": ("output_config", "format"),
            "reasoning_effort": ("output_config", "effort"),
        }
        match location:
            case ("messages", int(index), *_):
                return dotted(self.origins[index])
            case ("tools", int(index), "function", *rest):
                names = {"parameters": "input_schema"}
                return dotted(("tools", index, *(names.get(str(part), part) for part in rest)))
            case (str(name), *_) if name in renamed:
                return dotted(renamed[name])
        return dotted(location)


def chat_request(body: MessagesBody, *, thinks: bool) -> ChatRequest:
    """Convert a request to a chat request.

    Args:
        body: the request, or that for a count.
        thinks: whether the model was trained to think; other models accept all thinking options.

    Raises:
        ApiError: if the request is invalid; it names the fields of `/v1/messages`.
    """
    for name in REFUSED:
        if (body.model_extra or {}).get(name):
            raise _invalid(name, f"{name} is not supported here; leave it out")
    chat = ChatFields()
    system = "\n\n".join(_system_texts(body.system))
    if system:
        chat.add({"role": "system", "content": system}, ("system",))
    for number, message in enumerate(body.messages):
        _add_message(chat, message, ("messages", number))
    choice, parallel = _tool_choice(body.tool_choice)
    fields: Json = {
        "model": body.model,
        "messages": chat.messages,
        "tools": _tools(body.tools),
        "tool_choice": choice,
        "parallel_tool_calls": parallel,
        "reasoning_effort": _effort(body) if thinks else None,
        "response_format": _format(body.output_config),
    }
    if isinstance(body, MessagesRequest):
        fields |= {
            "max_tokens": body.max_tokens,
            "stop": body.stop_sequences,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "top_k": body.top_k,
            "stream": body.stream,
        }
    given = {name: value for name, value in fields.items() if value is not None}
    return ChatRequest.converted(given, chat.path)


def has_cache_border(body: MessagesBody) -> bool:
    """Return whether a request marks a prefix that shall be cached."""

    def marked(value: Any) -> bool:
        if isinstance(value, dict):
            return value.get("cache_control") is not None or marked(value.get("content"))
        return isinstance(value, list) and any(map(marked, value))

    own = (body.model_extra or {}).get("cache_control") is not None
    return own or any(map(marked, (body.system, body.tools, body.messages)))


def _system_texts(system: str | Sequence[Json] | None) -> Iterator[str]:
    """Yield the texts of the system prompt, without a block about billing."""
    if isinstance(system, str):
        yield from [system] if system else []
        return
    for number, block in enumerate(system or ()):
        text = _text_of(block, ("system", number))
        if text and not (number == 0 and text.startswith(BILLING)):
            yield text


def _add_message(chat: ChatFields, message: Json, path: Location) -> None:
    """Add the chat messages of one message."""
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise _invalid(
            (*path, "role"), f"Input should be 'user', 'assistant' or 'system', not {role!r:.40}"
        )
    if isinstance(content, str):
        chat.add({"role": role, "content": content}, path)
        return
    if not isinstance(content, list):
        raise _invalid((*path, "content"), "expected a string or a list of blocks")
    blocks = [(block, (*path, "content", number)) for number, block in enumerate(content)]
    if role == "assistant":
        _add_assistant(chat, blocks, path)
    elif role == "system":
        text = "".join(_text_of(block, place) for block, place in blocks)
        chat.add({"role": "system", "content": text}, path)
    else:
        _add_user(chat, blocks, path)


def _add_user(chat: ChatFields, blocks: Sequence[tuple[Any, Location]], path: Location) -> None:
    """Add the results of tools, each as a message, and the text between them."""
    texts: list[str] = []

    def end_text() -> None:
        if texts:
            chat.add({"role": "user", "content": "\n".join(texts)}, path)
            texts.clear()

    for block, place in blocks:
        kind = _kind(block, place, USER_BLOCKS)
        if kind == "text":
            texts.append(_text_of(block, place))
        elif kind == "tool_result":
            end_text()
            name = block.get("tool_use_id")
            if not isinstance(name, str):
                raise _invalid((*place, "tool_use_id"), "Field required")
            text = _result_text(block.get("content"), (*place, "content"))
            chat.add({"role": "tool", "tool_call_id": name, "content": text}, place)
    end_text()


def _add_assistant(
    chat: ChatFields, blocks: Sequence[tuple[Any, Location]], path: Location
) -> None:
    """Add an assistant's message: its text, its thoughts and its calls."""
    text, thoughts, calls = "", "", list[Json]()
    for block, place in blocks:
        kind = _kind(block, place, ASSISTANT_BLOCKS)
        if kind == "text":
            text += _text_of(block, place)
        elif kind == "thinking":
            thoughts += str(block.get("thinking") or "")
        elif kind == "tool_use":
            name, sent = block.get("name"), block.get("input") or {}
            if not isinstance(name, str) or not isinstance(block.get("id"), str):
                raise _invalid(place, "a tool_use has an id and a name")
            if not isinstance(sent, dict):
                raise _invalid((*place, "input"), "Input should be a valid dictionary")
            arguments = json.dumps(sent, ensure_ascii=False)
            function = {"name": name, "arguments": arguments}
            calls.append({"id": block["id"], "type": "function", "function": function})
    message: Json = {"role": "assistant", "content": text}
    if thoughts:
        message["reasoning"] = thoughts
    if calls:
        message["tool_calls"] = calls
    chat.add(message, path)


def _result_text(content: Any, path: Location) -> str:
    """Return the text of a tool's result."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise _invalid(path, "expected a string or a list of blocks")
    texts = []
    for number, block in enumerate(content):
        kind = _kind(block, (*path, number), RESULT_BLOCKS)
        if kind == "text":
            texts.append(_text_of(block, (*path, number)))
        elif kind == "image":
            texts.append(NO_IMAGE)
    return "\n".join(texts)


def _kind(block: Any, path: Location, expected: Sequence[str]) -> str:
    """Return the type of a block, which must be one of the expected ones."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind not in expected:
        raise _invalid(path, _wrong_tag(kind, expected))
    return str(kind)


def _text_of(block: Any, path: Location) -> str:
    """Return the text of a text block."""
    _kind(block, path, ("text",))
    text = block.get("text")
    if not isinstance(text, str):
        raise _invalid((*path, "text"), "Input should be a valid string")
    return text


def _tools(entries: Sequence[Json] | None) -> list[Json] | None:
    """Return the tools as functions."""
    if entries is None:
        return None
    functions = []
    for number, entry in enumerate(entries):
        if entry.get("type") not in (None, "custom"):
            raise _invalid(("tools", number), _wrong_tag(entry["type"], ("custom",)))
        function = {
            "name": entry.get("name"),
            "description": entry.get("description"),
            "parameters": entry.get("input_schema"),
            "strict": entry.get("strict"),
        }
        given = {name: value for name, value in function.items() if value is not None}
        functions.append({"type": "function", "function": given})
    return functions


def _tool_choice(choice: Json | None) -> tuple[str | Json | None, bool | None]:
    """Return the choice of a tool, and whether several calls are allowed."""
    if choice is None:
        return None, None
    kind, disabled = choice.get("type"), choice.get("disable_parallel_tool_use")
    parallel = None if disabled is None else not disabled
    if kind == "tool":
        named = {"type": "function", "function": {"name": choice.get("name")}}
        return named, parallel
    if kind not in CHOICES:
        raise _invalid(("tool_choice",), _wrong_tag(kind, ("auto", "any", "tool", "none")))
    return CHOICES[str(kind)], parallel


def _effort(body: MessagesBody) -> str | None:
    """Return the reasoning effort; None leaves it to the model's usual form."""
    thinking, output = body.thinking or {}, body.output_config or {}
    kind, effort = thinking.get("type"), EFFORTS.get(str(output.get("effort")))
    if kind == "disabled":
        return "none"
    if kind != "enabled":
        return effort
    budget = thinking.get("budget_tokens")
    if type(budget) is not int or budget < 1:
        raise _invalid(("thinking", "budget_tokens"), "expected a whole number, 1024 or more")
    if effort is not None:
        return effort
    return "low" if budget < SMALL_BUDGET else "high" if budget >= LARGE_BUDGET else "medium"


def _format(output: Json | None) -> Json | None:
    """Return the format of the reply."""
    wanted = (output or {}).get("format")
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        raise _invalid(
            ("output_config", "format"), "expected {'type': 'json_schema', 'schema': ...}"
        )
    return {"type": "json_schema", "json_schema": {"schema": wanted.get("schema")}}


def _wrong_tag(found: object, expected: Sequence[str]) -> str:
    """Return the message about a wrong type, in the words of Anthropic's server.

    Some agents look for these words, and then repeat the request without the part.
    """
    tags = ", ".join(repr(tag) for tag in expected)
    return (
        f"Input tag {found!r:.60} found using 'type' does not match any of the expected tags: "
        f"{tags}"
    )


def _invalid(path: Location | str, problem: str) -> ApiError:
    param = path if isinstance(path, str) else dotted(path)
    return ApiError(400, f"{param}: {problem}", param=param, code="invalid_value")
