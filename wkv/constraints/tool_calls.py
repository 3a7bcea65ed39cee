"""The grammar of a reply that must call tools."""

from collections.abc import Sequence
from typing import Any

from wkv.constraints.grammar import Grammar, Grammars, inline_json
from wkv.errors import InputError
from wkv.prompting.tool_types import Tool, ToolChoice

MOST_CALLS = 8
"""In one reply, where several are allowed; a weak model does not find an end by itself."""

SAYS_MORE = frozenset(
    {"$ref", "allOf", "anyOf", "oneOf", "patternProperties", "additionalProperties"}
)
"""Keywords that say more of an object's properties than `properties` does."""


def calls_grammar(
    grammars: Grammars, tools: Sequence[Tool], choice: ToolChoice, *, parallel: bool = False
) -> Grammar | None:
    """The grammar of a reply after `call_lead`: calls whose arguments follow the tools' schemas.

        newline, a call (or, in parallel, a list of up to 8), newline, end of the fence

    None where the reply is free. There a grammar that waits for the beginning of a call would take
    milliseconds for each token of plain text; the parser finds the calls.

    Raises:
        InputError: if a tool's parameters cannot be followed; says why.
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
        rules.append(f'list: "[" call (", " call){{0,{MOST_CALLS - 1}}} "]"')
    body = "(call | list)" if parallel else "call"
    return grammars.lark("\n".join([f'start: "\\n" {body} "\\n```"', *rules]))


def _rules(place: int, tool: Tool) -> list[str]:
    """The rules of a call of one tool, written as `call_text` writes it."""
    try:
        arguments = inline_json(_closed(tool.parameters), lenient=not tool.strict)
    except InputError as error:
        raise InputError(f"the tool {tool.name}: {error}") from error
    head = f'{{\\"name\\": \\"{tool.name}\\", \\"arguments\\": '
    return [f'call_{place}: "{head}" arguments_{place} "}}"', f"arguments_{place}: {arguments}"]


def _closed(parameters: dict[str, Any]) -> dict[str, Any]:
    """A schema that allows no arguments but those it names, unless it says otherwise itself."""
    if SAYS_MORE & parameters.keys():
        return parameters
    return {**parameters, "additionalProperties": False}
