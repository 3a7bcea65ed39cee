"""Tools that a request offers, which of them must be called, and the calls it tells of."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wkv.constraints.schema_limits import checked_json
from wkv.errors import InputError

MOST_TOOLS = 128
NAME = r"[A-Za-z0-9_-]{1,64}"
MODES = ("none", "auto", "required")


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: letters, digits, _ and -.
        description: what it does, or "".
        parameters: JSON schema of its arguments, an object.
        strict: whether the schema must be followed to the letter; else what of it cannot be
            followed is ignored.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False


@dataclass(frozen=True)
class ToolChoice:
    """Whether tools are called: "none", "auto" (the model chooses), "required", or "named".

    Attributes:
        mode: one of these.
        name: the tool that must be called, where it is named.
    """

    mode: str
    name: str = ""

    @property
    def is_forced(self) -> bool:
        """Whether the reply must be a call."""
        return self.mode in ("required", "named")

    @classmethod
    def of(cls, value: Any, tools: Sequence[Tool]) -> "ToolChoice":
        """What a request's `tool_choice` says; None: auto, if there are tools.

        Raises:
            InputError: if it is none of the known, or names no tool.
        """
        if value is None:
            return cls("auto" if tools else "none")
        if isinstance(value, dict) and value.get("type") == "function":
            function = value.get("function")
            name = function.get("name") if isinstance(function, dict) else value.get("name")
            if name not in [tool.name for tool in tools]:
                raise InputError(f"tool_choice names {name!r:.80}, which is not among the tools")
            return cls("named", name)
        if not isinstance(value, str) or value not in MODES:
            raise InputError(
                f"tool_choice is {value!r:.80}, expected one of {', '.join(MODES)}, or "
                '{"type": "function", "function": {"name": ...}}'
            )
        if value == "required" and not tools:
            raise InputError("tool_choice is 'required', but there are no tools; give some")
        return cls(value)

    def offered(self, tools: Sequence[Tool]) -> tuple[Tool, ...]:
        """The tools that may be called."""
        if self.mode == "none":
            return ()
        return tuple(tool for tool in tools if self.mode != "named" or tool.name == self.name)


@dataclass(frozen=True)
class Call:
    """A call that was made: the tool's name, and its arguments as JSON text."""

    name: str
    arguments: str


def tools_of(entries: Any) -> tuple[Tool, ...]:
    """The tools of a request's `tools`; None: none.

    Raises:
        InputError: says which is wrong and how.
    """
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > MOST_TOOLS:
        what = f"{len(entries)} entries" if isinstance(entries, list) else type(entries).__name__
        raise InputError(f"tools is {what}, expected a list of at most {MOST_TOOLS} functions")
    tools = tuple(_tool(entry, f"tools[{place}]") for place, entry in enumerate(entries))
    names = [tool.name for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two tools are named {twice!r}; give each its own name")
    return tools


def _tool(entry: Any, where: str) -> Tool:
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict) or entry.get("type") != "function":
        raise InputError(
            f'{where} is no function, expected {{"type": "function", "function": {{"name": ...}}}}'
        )
    name, description = function.get("name"), function.get("description") or ""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise InputError(
            f"{where} has the name {name!r:.80}, expected 1 to 64 letters, digits, _ or -"
        )
    if not isinstance(description, str):
        raise InputError(f"{where} has a description that is no text, expected a text")
    strict = function.get("strict") or False
    if not isinstance(strict, bool):
        raise InputError(f"{where} has strict = {strict!r:.80}, expected true or false")
    parameters = function.get("parameters")
    if parameters is None:
        return Tool(name, description, strict=strict)
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        raise InputError(
            f"{where} has parameters that describe no object, expected a JSON schema such as "
            '{"type": "object", "properties": {...}}'
        )
    try:
        checked_json(parameters)
    except InputError as error:
        raise InputError(f"{where}, {name}: {error}") from error
    return Tool(name, description, {"type": "object", **parameters}, strict)


def calls_of(entries: Any) -> tuple[Call, ...]:
    """The calls of an assistant's `tool_calls` in a request's messages.

    Raises:
        InputError: says which is wrong and how.
    """
    if not isinstance(entries, list):
        raise InputError(f"tool_calls is {type(entries).__name__}, expected a list of calls")
    return tuple(_call(entry, f"tool_calls[{place}]") for place, entry in enumerate(entries))


def _call(entry: Any, where: str) -> Call:
    function = entry.get("function") if isinstance(entry, dict) else None
    function = function if isinstance(function, dict) else {}
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or not isinstance(arguments, str):
        raise InputError(
            f'{where} is no call, expected {{"function": {{"name": ..., "arguments": ...}}}} with '
            "the arguments as JSON text"
        )
    return Call(name, arguments)
