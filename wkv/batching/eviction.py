"""The order in which cached states are evicted, without looking at all of them.

Among the states of one owner, the least valuable one goes first. The value of a state is

    saved_tokens / (1 + seconds since its last use)

States that save a similar number of tokens keep this order while time passes, so each such group is
a list by time of use, and only the first state of each list is compared.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from wkv.batching.owned_folder import eviction_pressure

GROUPS_PER_DOUBLING = 4
"""Saved tokens in the same group differ by less than a factor of 2^(1/4), which is 1.19."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Weight:
    """The reasons to keep or to evict a state.

    Attributes:
        owner: whose state it is.
        n_bytes: its size.
        saved_tokens: tokens that the state saves compared to the next shorter cached prefix.
    """

    owner: str
    n_bytes: int
    saved_tokens: int

    @property
    def group(self) -> int:
        """The number of the group of states that save about as many tokens."""
        return int(GROUPS_PER_DOUBLING * math.log2(max(1, self.saved_tokens)))


@dataclass(eq=False, slots=True)
class Owned(Generic[Key]):
    """The states of one owner.

    Attributes:
        n_bytes: their size.
        last_used: the time at which one of them was stored or found last.
        groups: by the number of the group, the times of use; the earliest comes first.
    """

    n_bytes: int = 0
    last_used: float = 0.0
    groups: dict[int, OrderedDict[Key, float]] = field(default_factory=dict)


class Eviction(Generic[Key]):
    """Chooses the next state to evict, in a time that does not depend on the number of states.

    The owner under the most pressure is chosen first. Many bytes and long disuse raise an owner's
    pressure. So nobody's use of the cache evicts all states of others.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._weights: dict[Key, Weight] = {}
        self._owners: dict[str, Owned[Key]] = {}

    def add(self, key: Key, weight: Weight) -> None:
        """Add a state that is used now."""
        self._weights[key] = weight
        owned = self._owners.setdefault(weight.owner, Owned())
        owned.n_bytes += weight.n_bytes
        owned.last_used = self._clock()
        owned.groups.setdefault(weight.group, OrderedDict())[key] = owned.last_used

    def touch(self, key: Key) -> None:
        """Record that a state is used now."""
        weight = self._weights[key]
        owned = self._owners[weight.owner]
        owned.last_used = self._clock()
        group = owned.groups[weight.group]
        group[key] = owned.last_used
        group.move_to_end(key)

    def remove(self, key: Key) -> None:
        """Remove a state."""
        weight = self._weights.pop(key)
        owned = self._owners[weight.owner]
        owned.n_bytes -= weight.n_bytes
        group = owned.groups[weight.group]
        del group[key]
        if not group:
            del owned.groups[weight.group]
        if not owned.groups:
            del self._owners[weight.owner]

    def next(self, owner: str = "", n_bytes: int = 0) -> Key:
        """Return the state to evict next; there must be one.

        Args:
            owner: whose state needs the space.
            n_bytes: the size of this state; it counts as stored.
        """
        now = self._clock()

        def pressure(name: str) -> float:
            owned = self._owners[name]
            if name == owner:
                return eviction_pressure(owned.n_bytes + n_bytes, 0.0)
            return eviction_pressure(owned.n_bytes, now - owned.last_used)

        def value(key: Key) -> float:
            weight = self._weights[key]
            used = owned.groups[weight.group][key]
            return weight.saved_tokens / (1 + now - used)

        owned = self._owners[max(self._owners, key=pressure)]
        return min((next(iter(group)) for group in owned.groups.values()), key=value)
