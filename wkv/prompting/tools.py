"""How a prompt tells a model of tools, of calls and of what came of them.

    System: Tools:
    - weather(city: string, unit?: "C" | "F"): The weather now.
    Return only a JSON function call.

    User: Is it cold in Paris?

    Assistant: ```json
    {"name": "weather", "arguments": {"city": "Paris"}}
    ```

    User: Function output:
    {"temperature": 3}

Source: RWKV-LM, RWKV7-G1x-templates.txt. All functions give what a turn says, without the
speaker's name and without a blank line, which would end the turn.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from wkv.prompting.template import clean
from wkv.prompting.tool_calls import FENCE, FENCE_END
from wkv.prompting.tool_types import Call, Tool, ToolChoice

LONGEST_TYPE = 120


def tools_system(tools: Sequence[Tool], *, may_answer: bool = False, parallel: bool = False) -> str:
    """What the system's turn says of tools.

    The last line is what the models were trained on, unless the model may also answer in words, or
    call several tools at once.
    """
    how = ["Return only a JSON function call"]
    if parallel:
        how.append("or a JSON list of them")
    if may_answer:
        how.append("or answer in words if no tool helps")
    return "\n".join(["Tools:", *map(_line, tools), ", ".join(how) + "."])


def _line(tool: Tool) -> str:
    """A tool's signature and description, on one line."""
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
    """A short name of what a schema allows."""
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
    return text if len(text) <= LONGEST_TYPE else text[:LONGEST_TYPE] + "..."


def _either(names: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(names))


def call_prefix(choice: ToolChoice) -> str:
    """What the prompt begins the reply with, after the colon: a fence, where tools must be called.

    The newline after it is left for the model, as it was trained.
    """
    return f" {FENCE}" if choice.is_forced else ""


def call_text(calls: Sequence[Call]) -> str:
    """A reply that was calls, as the model writes them.

    Arguments that came from the model stand as they were, so that a state that has read them is
    found again. Those that are no JSON object become a JSON string.
    """
    texts = [f'{{"name": "{call.name}", "arguments": {_arguments(call)}}}' for call in calls]
    body = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    return clean(f"{FENCE}\n{body}\n{FENCE_END}")


def _arguments(call: Call) -> str:
    try:
        if isinstance(json.loads(call.arguments), dict):
            return call.arguments
    except (ValueError, RecursionError):
        pass
    return json.dumps(call.arguments, ensure_ascii=False)


def result_text(content: str) -> str:
    """What came of a call: the message of a user's turn. Nothing is null."""
    return f"Function output:\n{clean(content) if content.strip() else 'null'}"
