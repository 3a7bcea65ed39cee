"""Grammar of a reply that must call tools."""

from collections.abc import Sequence
from typing import Any

from wkv.constraints.grammar import Grammar, Grammars, inline_json
from wkv.errors import InputError
from wkv.prompting.tool_types import Tool, ToolChoice

MAX_CALLS = 8
"""Largest number of parallel calls in a reply; a weak model would not stop by itself."""

PROPERTY_KEYWORDS = frozenset(
    {"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties"}
)
"""Keywords that define properties of an object in addition to `properties`."""


def calls_grammar(
    grammars: Grammars, tools: Sequence[Tool], choice: ToolChoice, *, parallel: bool = False
) -> Grammar | None:
    """Return the grammar of a reply after `call_prefix`: calls that follow the tools' schemas.

        newline, a call (or, in parallel, a list of up to 8), newline, end of the fence

    Returns None if the model may also answer in words. A grammar that waits for the beginning of a
    call would cost milliseconds for each token of plain text; the parser finds the calls instead.

    Raises:
        InputError: if a tool's parameters are not supported; the message gives the reason.
        BusyError: if too many grammars are being compiled.
        MissingExtraError: if llguidance is not installed.
    """
    if not choice.is_forced:
        return None
    offered = choice.offered(tools)
    rules = [f"call: {' | '.join(f'call_{place}' for place in range(len(offered)))}"]
    for place, tool in enumerate(offered):
        rules += _rules(place, tool)
    if parallel:
        rules.append(f'list: "[" call (", " call){{0,{MAX_CALLS - 1}}} "]"')
    body = "(call | list)" if parallel else "call"
    return grammars.lark("\n".join([f'start: "\\n" {body} "\\n```"', *rules]))


def _rules(place: int, tool: Tool) -> list[str]:
    """Return the rules of a call of one tool, in the format of `call_text`."""
    try:
        arguments = inline_json(_closed(tool.parameters), lenient=not tool.strict)
    except InputError as error:
        raise InputError(f"the tool {tool.name}: {error}") from error
    head = f'{{\\"name\\": \\"{tool.name}\\", \\"arguments\\": '
    return [f'call_{place}: "{head}" arguments_{place} "}}"', f"arguments_{place}: {arguments}"]


def _closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Exclude arguments that a schema does not name, unless the schema itself allows others."""
    if PROPERTY_KEYWORDS & parameters.keys():
        return parameters
    return {**parameters, "additionalProperties": False}
