"""What a JSON schema may cost at most, looked at before it is compiled.

The compiler has limits of its own, but not for everything: an intersection of n patterns takes 2^n
steps, references can double their number at each step, and a large `multipleOf` takes gigabytes. A
compilation cannot be stopped, so such schemas must not begin.
"""

import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from wkv.errors import InputError

MOST_BYTES = 2**16
MOST_DEPTH = 64
MOST_CHOICES = 2000
MOST_PROPERTIES = 500
MOST_PATTERNS = 12
MOST_MULTIPLE = 10_000

RESTRICTIONS = ("pattern", "format")
"""Keywords that become a regular expression, which is intersected with others of the same value."""

CIRCLE = object()
"""Marks a place whose patterns are being counted."""


def checked_json(schema: Any) -> str:
    """The text of a JSON schema, if it can be compiled in reasonable time.

    Raises:
        InputError: if it is no JSON object, or too large, deep or intricate.
    """
    if not isinstance(schema, dict):
        raise InputError(
            f"the JSON schema is a {type(schema).__name__}, expected an object such as "
            '{"type": "object", "properties": {...}}'
        )
    nodes = list(_nodes(schema))
    _check_choices(nodes)
    text = _dumped(schema)
    _check_properties(nodes)
    for node in nodes:
        _check_keywords(node, is_root=node is schema)
    _check_multiples(nodes)
    _check_patterns(schema, nodes)
    return text


def _nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All objects inside of a schema, itself first, without recursion."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise InputError(
                f"the JSON schema is nested more than {MOST_DEPTH} deep; flatten it, or use $defs"
            )
        if isinstance(value, dict):
            yield value
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += [(inner, depth + 1) for inner in value]


def _dumped(schema: dict[str, Any]) -> str:
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise InputError(f"the JSON schema is no JSON ({error}); give plain JSON values") from error
    if size > MOST_BYTES:
        raise InputError(
            f"the JSON schema has {size} bytes, expected at most {MOST_BYTES}; make it smaller"
        )
    return text


def _check_choices(nodes: list[dict[str, Any]]) -> None:
    enums = (node.get("enum") for node in nodes)
    count = sum(len(enum) for enum in enums if isinstance(enum, list))
    if count > MOST_CHOICES:
        raise InputError(
            f"the JSON schema has {count} values in its enums, expected at most {MOST_CHOICES}; "
            "use fewer, or a pattern"
        )


def _check_properties(nodes: list[dict[str, Any]]) -> None:
    """More than these compile, but no step of them is within the parser's limits."""
    properties = (node.get("properties") for node in nodes)
    count = max((len(one) for one in properties if isinstance(one, dict)), default=0)
    if count > MOST_PROPERTIES:
        raise InputError(
            f"an object of the JSON schema has {count} properties, expected at most "
            f"{MOST_PROPERTIES}; put some of them into objects of their own"
        )


def _check_keywords(node: dict[str, Any], *, is_root: bool) -> None:
    """References lead to a place in the schema itself, so that what they cost can be told."""
    reference = node.get("$ref")
    if isinstance(reference, str) and reference != "#" and not reference.startswith("#/"):
        raise InputError(
            f"the JSON schema refers to {reference[:80]!r}, expected a place in itself, such as "
            "'#/$defs/NAME'; copy what is meant into $defs"
        )
    if isinstance(node.get("$id"), str) and not is_root:
        raise InputError(
            f"a part of the JSON schema has the $id {node['$id'][:80]!r}; only the whole may have "
            "one, remove it"
        )
    if is_root and "x-guidance" in node:
        raise InputError("the JSON schema has the key 'x-guidance', which is not for it; remove it")


def _check_multiples(nodes: list[dict[str, Any]]) -> None:
    common = 1
    for node in nodes:
        value = node.get("multipleOf")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            digits = Decimal(str(value)).as_tuple().digits
            common = math.lcm(common, int("".join(map(str, digits))))
        if common > MOST_MULTIPLE:
            raise InputError(
                f"the JSON schema has the 'multipleOf' {value}, which makes the least common "
                f"multiple of all more than {MOST_MULTIPLE}; use smaller ones"
            )


def _check_patterns(schema: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    known: dict[int, Any] = {}
    try:
        count = max(_patterns(schema, node, known) for node in nodes)
    except RecursionError:
        raise InputError(
            "the references of the JSON schema lead from one to the next too many times; make the "
            "chain shorter"
        ) from None
    if count > MOST_PATTERNS:
        raise InputError(
            f"a value of the JSON schema may have to match {count} patterns or formats at once, "
            f"expected at most {MOST_PATTERNS}; join them into one"
        )


def _patterns(schema: dict[str, Any], node: Any, known: dict[int, Any]) -> int:
    """How many patterns a value of a node, or one inside of it, has to match at once, at most.

        max(own, parts) + sum of allOf + max of anyOf + what $ref leads to

    A part is a property or an item. Where objects are intersected, so are their parts of one name.
    """
    if not isinstance(node, dict) or known.get(id(node)) is CIRCLE:
        return 0
    if id(node) not in known:
        known[id(node)] = CIRCLE

        def largest(parts: Iterable[Any]) -> int:
            return max((_patterns(schema, part, known) for part in parts), default=0)

        count = sum(isinstance(node.get(name), str) for name in RESTRICTIONS)
        count = max(count, largest(_parts(node)))
        count += sum(_patterns(schema, part, known) for part in _list(node, "allOf"))
        count += largest(_list(node, "anyOf")) + largest(_list(node, "oneOf"))
        if isinstance(node.get("$ref"), str):
            count += _patterns(schema, _place(schema, node["$ref"]), known)
        known[id(node)] = count
    return int(known[id(node)])


def _parts(node: dict[str, Any]) -> Iterator[Any]:
    """What stands in a node and holds for parts of its value."""
    for name, value in node.items():
        if name in ("$defs", "definitions"):
            continue
        if isinstance(value, dict):
            yield value
        elif isinstance(value, list) and name not in ("allOf", "anyOf", "oneOf"):
            yield from value


def _list(node: dict[str, Any], name: str) -> list[Any]:
    value = node.get(name)
    return value if isinstance(value, list) else []


def _place(schema: dict[str, Any], reference: str) -> Any:
    """What a reference `#/a/b` leads to, or None."""
    value: Any = schema
    for step in reference.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value
