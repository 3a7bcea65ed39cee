"""Limits on the cost of a JSON schema, checked before it is compiled.

The compiler's own limits do not cover everything: an intersection of n patterns takes 2^n steps,
each reference can double the number of patterns, and a large `multipleOf` takes gigabytes. A
compilation cannot be stopped, so such schemas are refused beforehand.
"""

import json
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from wkv.errors import InputError

MAX_BYTES = 2**16
MAX_DEPTH = 64
MAX_CHOICES = 2000
MAX_PROPERTIES = 500
MAX_PATTERNS = 12
MAX_MULTIPLE = 10_000

RESTRICTIONS = ("pattern", "format")
"""Keywords that become a regular expression; those that apply to one value are intersected."""

IN_PROGRESS = object()
"""Marks a node whose patterns are being counted, so that circular references end."""


def checked_json(schema: Any) -> str:
    """Return the text of a JSON schema that can be compiled in reasonable time.

    Raises:
        InputError: if it is not a JSON object, or too large, deep or complex.
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
    """Yield the schema and all objects inside it, without recursion."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InputError(
                f"the JSON schema is nested more than {MAX_DEPTH} deep; flatten it, or use $defs"
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
        raise InputError(
            f"the JSON schema is not valid JSON ({error}); give plain JSON values"
        ) from error
    if size > MAX_BYTES:
        raise InputError(
            f"the JSON schema has {size} bytes, expected at most {MAX_BYTES}; make it smaller"
        )
    return text


def _check_choices(nodes: list[dict[str, Any]]) -> None:
    enums = (node.get("enum") for node in nodes)
    count = sum(len(enum) for enum in enums if isinstance(enum, list))
    if count > MAX_CHOICES:
        raise InputError(
            f"the JSON schema has {count} values in its enums, expected at most {MAX_CHOICES}; "
            "use fewer, or a pattern"
        )


def _check_properties(nodes: list[dict[str, Any]]) -> None:
    """Refuse objects with too many properties; they compile, but exceed the parser's limits."""
    properties = (node.get("properties") for node in nodes)
    count = max((len(one) for one in properties if isinstance(one, dict)), default=0)
    if count > MAX_PROPERTIES:
        raise InputError(
            f"an object of the JSON schema has {count} properties, expected at most "
            f"{MAX_PROPERTIES}; put some of them into objects of their own"
        )


def _check_keywords(node: dict[str, Any], *, is_root: bool) -> None:
    """Refuse references outside the schema, whose cost is unknown, and keywords that change it."""
    reference = node.get("$ref")
    if isinstance(reference, str) and reference != "#" and not reference.startswith("#/"):
        raise InputError(
            f"the JSON schema refers to {reference[:80]!r}, expected a place within the schema, "
            "such as '#/$defs/NAME'; copy the target into $defs"
        )
    if isinstance(node.get("$id"), str) and not is_root:
        raise InputError(
            f"a part of the JSON schema has the $id {node['$id'][:80]!r}; only the whole schema "
            "may have one, remove it"
        )
    if is_root and "x-guidance" in node:
        raise InputError("the JSON schema has the key 'x-guidance', which is reserved; remove it")


def _check_multiples(nodes: list[dict[str, Any]]) -> None:
    common = 1
    for node in nodes:
        value = node.get("multipleOf")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            digits = Decimal(str(value)).as_tuple().digits
            common = math.lcm(common, int("".join(map(str, digits))))
        if common > MAX_MULTIPLE:
            raise InputError(
                f"the JSON schema has the 'multipleOf' {value}, which makes the least common "
                f"multiple of all such values exceed {MAX_MULTIPLE}; use smaller values"
            )


def _check_patterns(schema: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    known: dict[int, Any] = {}
    try:
        count = max(_patterns(schema, node, known) for node in nodes)
    except RecursionError:
        raise InputError(
            "the JSON schema has a chain of references that is too long; make it shorter"
        ) from None
    if count > MAX_PATTERNS:
        raise InputError(
            f"a value of the JSON schema may have to match {count} patterns or formats at once, "
            f"expected at most {MAX_PATTERNS}; join them into one"
        )


def _patterns(schema: dict[str, Any], node: Any, known: dict[int, Any]) -> int:
    """Return the largest number of patterns that one value of a node has to match at once.

        max(own, parts) + sum over allOf + max over anyOf + max over oneOf + the target of $ref

    A part is a property or an item. If objects are intersected, their parts of one name are too.
    """
    if not isinstance(node, dict) or known.get(id(node)) is IN_PROGRESS:
        return 0
    if id(node) not in known:
        known[id(node)] = IN_PROGRESS

        def largest(parts: Iterable[Any]) -> int:
            return max((_patterns(schema, part, known) for part in parts), default=0)

        count = sum(isinstance(node.get(name), str) for name in RESTRICTIONS)
        count = max(count, largest(_parts(node)))
        count += sum(_patterns(schema, part, known) for part in _list(node, "allOf"))
        count += largest(_list(node, "anyOf")) + largest(_list(node, "oneOf"))
        if isinstance(node.get("$ref"), str):
            count += _patterns(schema, _target(schema, node["$ref"]), known)
        known[id(node)] = count
    return int(known[id(node)])


def _parts(node: dict[str, Any]) -> Iterator[Any]:
    """Yield the schemas inside a node that apply to parts of its value."""
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


def _target(schema: dict[str, Any], reference: str) -> Any:
    """Return the target of a reference such as `#/a/b`, or None."""
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
