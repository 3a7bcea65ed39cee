"""States that were reached before, found again by the ids that lead to them.

A recurrent state cannot be rolled back, so a prompt goes on from the longest prefix of it at whose
end a state was kept. Each tenant has a tree of its own: nobody learns what another has said.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wkv.batching.radix_tree import Node, Tree
from wkv.batching.state_folder import StateFolder
from wkv.models.state import State


@dataclass(eq=False, slots=True)
class Kept:
    """A state in the cache.

    Attributes:
        tenant: whose it is.
        state: of one row, with its logits.
        n_bytes: that it takes.
        saves: tokens that need not be read again because of it, beyond the next shorter prefix.
        used: when it was put or found last.
    """

    tenant: str
    state: State
    n_bytes: int
    saves: int
    used: float


@dataclass(frozen=True)
class Found:
    """Where a prompt goes on.

    Attributes:
        position: how many of its ids need not be read.
        state: that has read them; None at position 0.
        common: how many of its ids began another prompt: states are worth keeping there.
    """

    position: int = 0
    state: State | None = None
    common: int = 0


class StateCache:
    """States by their ids, in memory up to a number of bytes and, if there is one, in a folder.

    When memory is full, what goes first saves few tokens and was not used for long. It is used by
    one thread.

    Attributes:
        n_bytes: what the states take in memory.
        limit: of it.
        folder: where states outlive memory and process; None keeps none.
    """

    def __init__(
        self,
        limit: int,
        folder: StateFolder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_bytes = 0
        self.limit = limit
        self.folder = folder
        self._clock = clock
        self._trees: dict[str, Tree[Kept]] = {}
        self._nodes: dict[Node[Kept], Kept] = {}

    def __len__(self) -> int:
        """Number of states in memory."""
        return len(self._nodes)

    def find(self, tenant: str, ids: Sequence[int], places: Sequence[int] = ()) -> Found:
        """The state of the longest prefix of `ids`.

        `places` are positions where the folder is asked too, such as the ends of messages.
        """
        match = self._trees.get(tenant, Tree[Kept]()).match(ids)
        position = match.node.depth if match.node else 0
        if self.folder is not None:
            further = {place for place in places if position < place <= len(ids)}
            found = self.folder.load(tenant, ids, further)
            if found is not None:
                self._keep(tenant, ids[: found[0]], found[1])
                return Found(*found, match.common)
        if match.node is None or match.node.value is None:
            return Found(common=match.common)
        kept = match.node.value
        kept.used = self._clock()
        return Found(position, kept.state, match.common)

    def put(self, tenant: str, ids: Sequence[int], state: State, *, lasting: bool = False) -> bool:
        """Keep the state that has read `ids`; false if it holds no numbers, or is too large.

        A lasting one is written to the folder too, if there is one.
        """
        if state.logits is None or not bool(torch.isfinite(state.logits).all()):
            return False
        if lasting and self.folder is not None:
            self.folder.save(tenant, ids, state)
        return self._keep(tenant, ids, state)

    def clear(self) -> None:
        """Forget all that is in memory."""
        self._trees.clear()
        self._nodes.clear()
        self.n_bytes = 0

    def _keep(self, tenant: str, ids: Sequence[int], state: State) -> bool:
        assert state.logits is not None
        size = state.n_bytes + state.logits.nbytes
        if size > self.limit:
            return False
        tree = self._trees.setdefault(tenant, Tree[Kept]())
        before = tree.match(ids).node
        if before is not None and before.depth == len(ids):
            self._forget(before)
            before = tree.match(ids).node
        self._make_room(size)
        # Made anew: what made room may have taken the tree's last state.
        tree = self._trees.setdefault(tenant, Tree[Kept]())
        saves = len(ids) - (before.depth if before is not None else 0)
        kept = Kept(tenant, state, size, saves, self._clock())
        self._nodes[tree.put(ids, kept)] = kept
        self.n_bytes += size
        return True

    def _make_room(self, size: int) -> None:
        """Forget states until one of `size` bytes fits."""
        now = self._clock()

        def worth(node: Node[Kept]) -> float:
            kept = self._nodes[node]
            return kept.saves / (1 + now - kept.used)

        while self._nodes and self.n_bytes + size > self.limit:
            self._forget(min(self._nodes, key=worth))

    def _forget(self, node: Node[Kept]) -> None:
        kept = self._nodes.pop(node)
        self.n_bytes -= kept.n_bytes
        tree = self._trees[kept.tenant]
        tree.remove(node)
        if not tree.root.children:
            del self._trees[kept.tenant]
