"""Rendering of tools, tool calls and their results in a prompt.

    System: Tools:
    - weather(city: string, unit?: "C" | "F"): The weather now.
    Return only a JSON function call.

    User: Is it cold in Paris?

    Assistant: ```json
    {"name": "weather", "arguments": {"city": "Paris"}}
    ```

    User: Function output:
    {"temperature": 3}

Source: RWKV-LM, RWKV7-G1x-templates.txt. No returned text contains a
speaker's name or a blank line, because a blank line ends a turn.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from wkv.prompting.template import without_blank_lines
from wkv.prompting.tool_calls import FENCE, FENCE_END
from wkv.prompting.tool_types import Call, Tool, ToolChoice

MAX_TYPE_LENGTH = 120

LINE_ENDS = {0x85: r"\u0085", 0x2028: r"\u2028", 0x2029: r"\u2029"}
"""Line ends that JSON allows inside of strings, and their JSON escapes."""


def escape_line_ends(text: str) -> str:
    """Escape the line ends in the strings of a JSON text, at which some readers divide it."""
    return text.translate(LINE_ENDS)


def tools_system(tools: Sequence[Tool], *, may_answer: bool = False, parallel: bool = False) -> str:
    """Return the part of the system message that lists the tools.

    The last line is the one from the models' training, unless the model may also answer in words
    or call several tools at once.
    """
    instructions = ["Return only a JSON function call"]
    if parallel:
        instructions.append("or a JSON list of them")
    if may_answer:
        instructions.append("or answer in words if no tool helps")
    return "\n".join(["Tools:", *map(_line, tools), ", ".join(instructions) + "."])


def _line(tool: Tool) -> str:
    """Return a tool's signature and description on one line."""
    properties, required = tool.parameters.get("properties"), tool.parameters.get("required")
    properties = properties if isinstance(properties, dict) else {}
    required = required if isinstance(required, list) else []
    arguments = ", ".join(
        f"{name}{'' if name in required else '?'}: {_type(schema)}"
        for name, schema in properties.items()
    )
    words = f": {tool.description}" if tool.description.strip() else ""
    return " ".join(f"- {tool.name}({arguments}){words}".split())


def _type(schema: Any) -> str:
    """Return a short name of the type that a schema describes."""
    schema = schema if isinstance(schema, dict) else {}
    kinds = schema.get("type")
    parts = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(schema.get("enum"), list):
        text = _either(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    elif "const" in schema:
        text = json.dumps(schema["const"], ensure_ascii=False)
    elif kinds == "array" and isinstance(schema.get("items"), dict):
        inner = _type(schema["items"])
        text = f"({inner})[]" if "|" in inner else f"{inner}[]"
    elif isinstance(kinds, list):
        text = _either(map(str, kinds))
    elif isinstance(parts, list):
        text = _either(map(_type, parts))
    elif isinstance(schema.get("$ref"), str):
        text = schema["$ref"].rsplit("/", 1)[-1]
    else:
        text = str(kinds or "any")
    return text if len(text) <= MAX_TYPE_LENGTH else text[:MAX_TYPE_LENGTH] + "..."


def _either(names: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(names))


def call_prefix(choice: ToolChoice) -> str:
    """Return the beginning of the reply in the prompt: a fence if a tool must be called, or "".

    The newline after the fence is left for the model to write, as in its training.
    """
    return f" {FENCE}" if choice.is_forced else ""


def call_text(calls: Sequence[Call]) -> str:
    """Return the text of a reply that consists of calls, in the format that the model writes.

    Arguments that are a JSON object are copied character by character, so that the cached state
    after them is found again. Other arguments become a JSON string.
    """
    texts = [f'{{"name": "{call.name}", "arguments": {_arguments(call)}}}' for call in calls]
    body = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return without_blank_lines(f"{FENCE}\n{body}\n{FENCE_END}")


def _arguments(call: Call) -> str:
    """Return arguments as JSON; line ends inside of strings are escaped, so that none is lost."""
    text = call.arguments
    try:
        is_object = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    text = text if is_object else json.dumps(text, ensure_ascii=False)
    return escape_line_ends(text)


def result_text(content: str) -> str:
    """Return the user's message with the result of a call; an empty result becomes `null`."""
    return f"Function output:\n{without_blank_lines(content) or 'null'}"
