"""A radix tree: sequences of ids to values, and the longest prefix of a sequence that has one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")
Ids = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Node(Generic[Value]):
    """A place in the tree.

    Attributes:
        edge: the ids that lead here from the parent.
        depth: ids from the root to here.
        parent: None at the root, and after the node was removed.
        value: what is kept here; None at a place where sequences only part.
        children: by the first id of their edges.
    """

    edge: Ids = ()
    depth: int = 0
    parent: Node[Value] | None = None
    value: Value | None = None
    children: dict[int, Node[Value]] = field(default_factory=dict)


@dataclass(frozen=True)
class Match(Generic[Value]):
    """What a tree knows of a sequence.

    Attributes:
        node: the deepest place on its way that has a value; None if there is none.
        common: how many of its ids are the beginning of a sequence in the tree.
    """

    node: Node[Value] | None
    common: int


class Tree(Generic[Value]):
    """A radix tree. A branch without values is removed as its last value goes."""

    def __init__(self) -> None:
        self.root: Node[Value] = Node()

    def match(self, ids: Sequence[int]) -> Match[Value]:
        """The deepest value on the way of `ids`, and how far they are known."""
        node, best, known = self.root, None, 0
        ids = tuple(ids)
        while True:
            if node.value is not None:
                best = node
            child = node.children.get(ids[known]) if known < len(ids) else None
            if child is None:
                return Match(best, known)
            same = _common(child.edge, ids, known)
            known += same
            if same < len(child.edge):
                return Match(best, known)
            node = child

    def put(self, ids: Sequence[int], value: Value) -> Node[Value]:
        """Keep a value at the end of `ids`; one that is there is replaced."""
        ids = tuple(ids)
        node = self.root
        while node.depth < len(ids):
            child = node.children.get(ids[node.depth])
            if child is None:
                child = Node(ids[node.depth :], len(ids), node)
                node.children[child.edge[0]] = child
            else:
                same = _common(child.edge, ids, node.depth)
                if same < len(child.edge):
                    child = _split(child, same)
            node = child
        node.value = value
        return node

    def remove(self, node: Node[Value]) -> None:
        """Take the value of a node away, and what only led to it."""
        node.value = None
        while node.parent is not None and node.value is None and not node.children:
            parent = node.parent
            del parent.children[node.edge[0]]
            node.parent = None
            node = parent
        if node.parent is not None and node.value is None and len(node.children) == 1:
            _join(node)

    def nodes(self) -> Iterator[Node[Value]]:
        """All places that have a value."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            waiting.extend(node.children.values())
            if node.value is not None:
                yield node


def _common(edge: Ids, ids: Ids, start: int) -> int:
    """How many ids of an edge are those of `ids` from `start` on."""
    length = min(len(edge), len(ids) - start)
    if edge[:length] == ids[start : start + length]:
        return length
    low, high = 0, length  # the answer is at least low and less than high
    while high - low > 1:
        middle = (low + high) // 2
        if edge[low:middle] == ids[start + low : start + middle]:
            low = middle
        else:
            high = middle
    return low


def _split(child: Node[Value], at: int) -> Node[Value]:
    """A new node on the edge of a child, after `at` ids."""
    parent = child.parent
    assert parent is not None
    middle: Node[Value] = Node(child.edge[:at], parent.depth + at, parent)
    parent.children[middle.edge[0]] = middle
    child.edge, child.parent = child.edge[at:], middle
    middle.children[child.edge[0]] = child
    return middle


def _join(node: Node[Value]) -> None:
    """Take a node without a value out from between its parent and its only child."""
    parent, child = node.parent, next(iter(node.children.values()))
    assert parent is not None
    child.edge, child.parent = node.edge + child.edge, parent
    parent.children[child.edge[0]] = child
    node.parent = None
