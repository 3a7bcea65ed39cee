"""Prefix cache of recurrent states, indexed by the ids that were read to reach them.

A recurrent state cannot be rolled back, so a prompt continues from its longest prefix whose state
was cached. Each tenant has a separate tree, so that tenants cannot learn about each other's texts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wkv.batching.eviction import Eviction, Weight
from wkv.batching.radix_tree import Node, RadixTree
from wkv.batching.request import owner_of
from wkv.batching.state_folder import StateFolder
from wkv.models.state import EngineLayers, State


@dataclass(eq=False, slots=True)
class CachedState:
    """A state in memory.

    Attributes:
        tenant: the owner.
        state: a state of one row, with logits: in main memory, or where its engine stores it.
        devices: the devices of the layers and of the logits, to which it is moved for its use.
        n_bytes: size of the state and its logits.
    """

    tenant: str
    state: State
    devices: Sequence[torch.device]
    n_bytes: int


@dataclass(frozen=True)
class CachedPrefix:
    """The longest cached prefix of a prompt.

    Attributes:
        position: length of the prefix.
        state: the state after the prefix; None at position 0.
        common: number of leading ids that the prompt shares with an earlier prompt or reply, even
            if no state was cached there. The second prompt that begins so suggests a third one, so
            prefill caches a state at this position.
    """

    position: int = 0
    state: State | None = None
    common: int = 0


class StateCache:
    """A cache of states in memory, with a limit in bytes, and optionally in a folder on disk.

    When the cache is full, the owner that takes the most memory loses states: first those that
    save few tokens and were not used for long (see `Eviction`). The cache is not thread-safe.

    The states of an engine that stores them itself stay there. They count in the same way, so
    `limit` is the largest size of cached states in main memory and on the device together.

    Attributes:
        n_bytes: memory that the states take.
        limit: largest value of `n_bytes`.
        folder: the folder for states that outlive the process, or None.
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
        self._trees: dict[str, RadixTree[CachedState]] = {}
        self._nodes: dict[Node[CachedState], CachedState] = {}
        self._eviction = Eviction[Node[CachedState]](clock)

    def __len__(self) -> int:
        """Return the number of states in memory."""
        return len(self._nodes)

    def find(self, tenant: str, ids: Sequence[int], positions: Sequence[int] = ()) -> CachedPrefix:
        """Return the longest cached prefix of `ids`.

        `positions`, such as the ends of messages, are also looked up in the folder.
        """
        match = self._trees.get(tenant, RadixTree[CachedState]()).match(ids)
        position = match.node.depth if match.node else 0
        if self.folder is not None:
            longer = {end for end in positions if position < end <= len(ids)}
            found = self.folder.load(tenant, ids, longer)
            if found is not None:
                self._store(tenant, ids[: found[0]], found[1])
                return CachedPrefix(*found, match.common)
        if match.node is None or match.node.value is None:
            return CachedPrefix(common=match.common)
        cached = match.node.value
        self._eviction.touch(match.node)
        return CachedPrefix(position, cached.state.to(cached.devices), match.common)

    def put(self, tenant: str, ids: Sequence[int], state: State, *, to_disk: bool = False) -> bool:
        """Cache the state after `ids`; `to_disk` also writes it to the folder, if there is one.

        Returns:
            False if the state was not cached: its logits are not finite, or it is too large.
        """
        if state.logits is None or not bool(torch.isfinite(state.logits).all()):
            return False
        if to_disk and self.folder is not None:
            self.folder.save(tenant, ids, state)
        return self._store(tenant, ids, state)

    def free_memory(self) -> bool:
        """Remove all states from memory, if there are any; return whether there were."""
        found = len(self) > 0
        self.clear()
        return found

    def clear(self) -> None:
        """Remove all states from memory."""
        self._trees.clear()
        self._nodes.clear()
        self._eviction = Eviction(self._clock)
        self.n_bytes = 0

    def _store(self, tenant: str, ids: Sequence[int], state: State) -> bool:
        assert state.logits is not None
        size = state.n_bytes + state.logits.nbytes
        if size > self.limit:
            return False
        tree = self._trees.setdefault(tenant, RadixTree[CachedState]())
        before = tree.match(ids).node
        if before is not None and before.depth == len(ids):
            self._evict(before)
            before = tree.match(ids).node
        while self._nodes and self.n_bytes + size > self.limit:
            self._evict(self._eviction.next(owner_of(tenant), size))
        # Looked up again, because evicting the tree's last state removes the tree.
        tree = self._trees.setdefault(tenant, RadixTree[CachedState]())
        saved_tokens = len(ids) - (before.depth if before is not None else 0)
        devices = [*state.devices, state.logits.device]
        cached = CachedState(tenant, _kept(state), devices, size)
        node = tree.put(ids, cached)
        self._nodes[node] = cached
        self._eviction.add(node, Weight(owner_of(tenant), size, saved_tokens))
        self.n_bytes += size
        return True

    def _evict(self, node: Node[CachedState]) -> None:
        cached = self._nodes.pop(node)
        self._eviction.remove(node)
        self.n_bytes -= cached.n_bytes
        tree = self._trees[cached.tenant]
        tree.remove(node)
        if not tree.root.children:
            del self._trees[cached.tenant]


def _kept(state: State) -> State:
    """Return a state in main memory; an engine that stores its states moves them there itself."""
    cpu = torch.device("cpu")
    layers = state.devices if isinstance(state.layers, EngineLayers) else [cpu] * len(state.layers)
    return state.to([*layers, cpu])
