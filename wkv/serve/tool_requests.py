"""Tools and calls in the bodies of requests, checked and turned into their types."""

import re
from typing import Any

from wkv.constraints.schema_limits import checked_json
from wkv.errors import InputError
from wkv.prompting.tool_types import Call, Tool

MOST_TOOLS = 128
NAME = r"[A-Za-z0-9_-]{1,64}"


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
