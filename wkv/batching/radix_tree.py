"""Radix tree that maps sequences of ids to values and finds the longest prefix with a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")
Ids = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Node(Generic[Value]):
    """A node of the tree.

    Attributes:
        edge: the ids between the parent and this node.
        depth: number of ids from the root to this node.
        parent: the parent; None for the root and for removed nodes.
        value: the value; None at a node where sequences only diverge.
        children: the children by the first id of their edges.
    """

    edge: Ids = ()
    depth: int = 0
    parent: Node[Value] | None = None
    value: Value | None = None
    children: dict[int, Node[Value]] = field(default_factory=dict)


@dataclass(frozen=True)
class PrefixMatch(Generic[Value]):
    """The result of looking up a sequence.

    Attributes:
        node: the node with a value at the longest prefix; None if no prefix has a value.
        common: length of the longest prefix that is also a prefix of a sequence in the tree.
    """

    node: Node[Value] | None
    common: int


class RadixTree(Generic[Value]):
    """A radix tree in which every leaf has a value; branches without values are removed."""

    def __init__(self) -> None:
        self.root: Node[Value] = Node()

    def match(self, ids: Sequence[int]) -> PrefixMatch[Value]:
        """Return the longest prefix of `ids` with a value, and the length of the known prefix."""
        node, best, known = self.root, None, 0
        ids = tuple(ids)
        while True:
            if node.value is not None:
                best = node
            child = node.children.get(ids[known]) if known < len(ids) else None
            if child is None:
                return PrefixMatch(best, known)
            same = common_prefix(child.edge, ids, known)
            known += same
            if same < len(child.edge):
                return PrefixMatch(best, known)
            node = child

    def put(self, ids: Sequence[int], value: Value) -> Node[Value]:
        """Store a value at the end of `ids`; an existing value is replaced."""
        ids = tuple(ids)
        node = self.root
        while node.depth < len(ids):
            child = node.children.get(ids[node.depth])
            if child is None:
                child = Node(ids[node.depth :], len(ids), node)
                node.children[child.edge[0]] = child
            else:
                same = common_prefix(child.edge, ids, node.depth)
                if same < len(child.edge):
                    child = _split(child, same)
            node = child
        node.value = value
        return node

    def remove(self, node: Node[Value]) -> None:
        """Remove the value of a node, and the branch that led only to it."""
        node.value = None
        while node.parent is not None and node.value is None and not node.children:
            parent = node.parent
            del parent.children[node.edge[0]]
            node.parent = None
            node = parent
        if node.parent is not None and node.value is None and len(node.children) == 1:
            _join(node)

    def nodes(self) -> Iterator[Node[Value]]:
        """Yield all nodes that have a value."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            waiting.extend(node.children.values())
            if node.value is not None:
                yield node


def common_prefix(edge: Ids, ids: Ids, start: int = 0) -> int:
    """Return the length of the common prefix of `edge` and `ids[start:]`."""
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
    """Split the edge of a child after `at` ids and return the new node."""
    parent = child.parent
    assert parent is not None
    middle: Node[Value] = Node(child.edge[:at], parent.depth + at, parent)
    parent.children[middle.edge[0]] = middle
    child.edge, child.parent = child.edge[at:], middle
    middle.children[child.edge[0]] = child
    return middle


def _join(node: Node[Value]) -> None:
    """Remove a node without a value between its parent and its only child."""
    parent, child = node.parent, next(iter(node.children.values()))
    assert parent is not None
    child.edge, child.parent = node.edge + child.edge, parent
    parent.children[child.edge[0]] = child
    node.parent = None
