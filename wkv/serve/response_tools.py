"""Tools of `/v1/responses`: functions, custom tools, and namespaces of functions.

A custom tool has one text as its input. It is offered to the model as a function with the argument
`input`. The functions of a namespace are offered as `NAMESPACE__NAME`. Agents send tools that run
on OpenAI's servers with every request, so these are left out instead of refused.
Source: the openai package, types/responses/tool_param.py; codex-rs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wkv.serve.protocol.errors import ApiError

Json = dict[str, Any]

SERVER_TOOLS = (
    "web_search",
    "web_search_preview",
    "file_search",
    "image_generation",
    "code_interpreter",
    "mcp",
    "tool_search",
    "computer",
    "computer_use_preview",
    "programmatic_tool_calling",
    "local_shell",
    "shell",
    "apply_patch",
)
"""Types of tools without a function that the client could run."""

TOOL_CHOICES = "'none', 'auto', 'required', or {\"type\": \"function\", \"name\": ...}"

INPUT = "input"

CUSTOM_SCHEMA = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}


@dataclass(frozen=True)
class OfferedTool:
    """A tool as the client knows it.

    Attributes:
        name: its name.
        is_custom: whether its input is a text.
        namespace: the namespace of the function; "" without one.
    """

    name: str
    is_custom: bool = False
    namespace: str = ""


@dataclass
class OfferedTools:
    """The tools of a request.

    Attributes:
        functions: what the model is offered, as the chat API describes it.
        paths: the location of each function in the request.
        by_name: the tools by the names of their functions.
        left_out: types of the tools that were left out.
    """

    functions: list[Json] = field(default_factory=list)
    paths: list[tuple[str | int, ...]] = field(default_factory=list)
    by_name: dict[str, OfferedTool] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, tools: Sequence[Json], path: tuple[str | int, ...]) -> None:
        """Add tools that stand at a place of the request.

        Raises:
            ApiError: if a type of a tool is unknown.
        """
        for number, tool in enumerate(tools):
            kind, place = tool.get("type"), (*path, number)
            if kind == "namespace":
                self._add_namespace(tool, place)
            elif kind == "custom":
                function = {"name": tool.get("name"), "parameters": CUSTOM_SCHEMA}
                if tool.get("description") is not None:
                    function["description"] = tool["description"]
                self._add(function, OfferedTool(str(tool.get("name")), is_custom=True), place)
            elif kind in SERVER_TOOLS or str(kind).startswith("web_search"):
                self.left_out.append(str(kind))
            else:
                function = {key: value for key, value in tool.items() if key != "type"}
                self._add(function, OfferedTool(str(tool.get("name"))), place, str(kind))

    def choice(self, choice: Any) -> Any:
        """Return a `tool_choice` in the form of the chat API.

        Raises:
            ApiError: if it names a tool that was left out, or has another type.
        """
        if not isinstance(choice, dict):
            return choice
        if choice.get("type") not in ("function", "custom"):
            message = f"tool_choice is {choice!r:.80}, expected {TOOL_CHOICES}"
            raise ApiError(400, message, param="tool_choice", code="invalid_value")
        return {"type": "function", "function": {"name": choice.get("name")}}

    def item(self, call: Json, status: str) -> Json:
        """Return the output item of a call of the chat API."""
        function, call_id = call["function"], call["id"]
        tool = self.by_name.get(function["name"], OfferedTool(function["name"]))
        if tool.is_custom:
            item = {"type": "custom_tool_call", "id": f"ctc_{call_id}", "call_id": call_id}
            return item | {
                "name": tool.name,
                "input": _input_of(function["arguments"]),
                "status": status,
            }
        item = {"type": "function_call", "id": f"fc_{call_id}", "call_id": call_id}
        item |= {"name": tool.name, "arguments": function["arguments"], "status": status}
        return item | ({"namespace": tool.namespace} if tool.namespace else {})

    def _add_namespace(self, tool: Json, path: tuple[str | int, ...]) -> None:
        name, inner = tool.get("name"), tool.get("tools")
        if not isinstance(name, str) or not isinstance(inner, list):
            message = f"{'.'.join(map(str, path))} is a namespace, expected a name and tools"
            raise ApiError(400, message, param="tools", code="invalid_value")
        for number, entry in enumerate(inner):
            if isinstance(entry, dict) and entry.get("type") == "function":
                function = {key: value for key, value in entry.items() if key != "type"}
                function["name"] = f"{name}__{entry.get('name')}"
                offered = OfferedTool(str(entry.get("name")), namespace=name)
                self._add(function, offered, (*path, "tools", number))

    def _add(
        self,
        function: Json,
        tool: OfferedTool,
        path: tuple[str | int, ...],
        kind: str = "function",
    ) -> None:
        self.functions.append({"type": kind, "function": function})
        self.paths.append(path)
        self.by_name[str(function.get("name"))] = tool


def call_of(item: Json) -> Json:
    """Return the call of the chat API for an item that is a call of any kind."""
    kind = item.get("type")
    if kind == "function_call":
        name, arguments = item.get("name"), item.get("arguments")
        if isinstance(item.get("namespace"), str):
            name = f"{item['namespace']}__{name}"
    elif kind == "custom_tool_call":
        name, arguments = item.get("name"), json.dumps({INPUT: item.get(INPUT)}, ensure_ascii=False)
    else:  # local_shell_call, shell_call, apply_patch_call, tool_search_call
        rest = {key: value for key, value in item.items() if key in ("action", "operation")}
        name = str(kind).removesuffix("_call")
        arguments = json.dumps(rest, ensure_ascii=False)
    function = {"name": name, "arguments": arguments}
    return {"id": item.get("call_id") or item.get("id"), "type": "function", "function": function}


def _input_of(arguments: str) -> str:
    """Return the text in the arguments of a custom tool; they may be cut off."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    return str(found.get(INPUT, "")) if isinstance(found, dict) else str(found)
