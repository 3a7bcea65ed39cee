"""Build a regular expression that matches the longest token of a vocabulary at a position.

The expression is a prefix tree. Siblings begin with different characters, so there is only one path
down the tree. A part of the path without siblings is written as alternatives, the longest first:
`a(?:bcd(?:e|f)|bc|b)?` for the tokens a, ab, abc, abcde and abcdf. The first alternative that fits
is therefore the longest token. Groups would do the same, but some engines limit how deep they may
be nested. An alternation of many siblings is slow, so they are split into halves, and a lookahead
at the next character selects the half.
"""

import re
from collections.abc import Iterable
from typing import TypeAlias

MOST_ALTERNATIVES = 6
"""The largest number of siblings that form one alternation; more are split into halves."""

END = ""
"""The key that marks a node at which a token ends."""

Node: TypeAlias = dict[str, "Node"]


def longest_match_pattern(tokens: Iterable[str]) -> str:
    """Return the pattern in the syntax of Oniguruma, which the `tokenizers` library uses."""
    root: Node = {}
    for token in tokens:
        node = root
        for character in token:
            node = node.setdefault(character, {})
        node[END] = {}
    return _pattern(root)


def _pattern(node: Node) -> str:
    """Return the pattern of all continuations of a node; it is empty if there are none."""
    last = [character for character, child in sorted(node.items()) if child == {END: {}}]
    longer = [character for character in sorted(node) if character not in (END, *last)]
    branches = [(first, _branch(first, node[first])) for first in longer]
    optional = "?" if END in node else ""
    if not branches:
        return _set_of(last) + optional if last else ""
    choices = "|".join([_choose(branches), *([_set_of(last)] if last else [])])
    return f"(?:{choices}){optional}"


def _branch(text: str, node: Node) -> str:
    """Return alternatives for all tokens that begin with `text`, which leads to `node`."""
    shorter: list[str] = []
    while len(node) - (END in node) == 1:
        if END in node:
            shorter.append(re.escape(text))
        (character,) = node.keys() - {END}
        text, node = text + character, node[character]
    return "|".join([re.escape(text) + _pattern(node), *reversed(shorter)])


def _choose(branches: list[tuple[str, str]]) -> str:
    """Return an alternation of branches, each given as its first character and its pattern."""
    if len(branches) <= MOST_ALTERNATIVES:
        return "|".join(pattern for _, pattern in branches)
    half = len(branches) // 2
    first = _set_of(character for character, _ in branches[:half])
    return f"(?={first})(?:{_choose(branches[:half])})|{_choose(branches[half:])}"


def _set_of(characters: Iterable[str]) -> str:
    """Return a pattern that matches any one of the characters."""
    escaped = [re.escape(character) for character in characters]
    return escaped[0] if len(escaped) == 1 else f"[{''.join(escaped)}]"
