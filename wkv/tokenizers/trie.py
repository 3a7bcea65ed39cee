"""A regular expression that matches the longest token at a place, as a tree of their characters.

What may follow a character is an optional group, taken if it can be: `a(?:b(?:cd)?)?` for the
tokens a, ab and abcd. Siblings begin with different characters, so there is one way down the tree,
and stepping back up ends at the last token that was passed. With many siblings a choice among all
of them is slow; they are halved, each half behind a look at the next character.
"""

import re
from collections.abc import Iterable
from typing import TypeAlias

MOST_ALTERNATIVES = 6
"""Siblings that are tried one after the other before they are halved."""

END = ""
"""Key of a node where a token ends."""

Node: TypeAlias = dict[str, "Node"]


def longest_match_pattern(tokens: Iterable[str]) -> str:
    """The pattern, in the dialect of the `tokenizers` library (Oniguruma)."""
    root: Node = {}
    for token in tokens:
        node = root
        for character in token:
            node = node.setdefault(character, {})
        node[END] = {}
    return _pattern(root)


def _pattern(node: Node) -> str:
    """What may follow a node: nothing (an empty pattern) if no token goes on."""
    last = [character for character, child in sorted(node.items()) if child == {END: {}}]
    longer = [character for character in sorted(node) if character not in (END, *last)]
    branches = [(first, re.escape(first) + _pattern(node[first])) for first in longer]
    optional = "?" if END in node else ""
    if not branches:
        return _set_of(last) + optional if last else ""
    if len(branches) == 1 and not last and not optional:
        return branches[0][1]
    choices = "|".join([_choose(branches), *([_set_of(last)] if last else [])])
    return f"(?:{choices}){optional}"


def _choose(branches: list[tuple[str, str]]) -> str:
    """A choice among branches, each a first character and a whole pattern."""
    if len(branches) <= MOST_ALTERNATIVES:
        return "|".join(pattern for _, pattern in branches)
    half = len(branches) // 2
    first = _set_of(character for character, _ in branches[:half])
    return f"(?={first})(?:{_choose(branches[:half])})|{_choose(branches[half:])}"


def _set_of(characters: Iterable[str]) -> str:
    """A pattern for any one of some characters."""
    escaped = [re.escape(character) for character in characters]
    return escaped[0] if len(escaped) == 1 else f"[{''.join(escaped)}]"
