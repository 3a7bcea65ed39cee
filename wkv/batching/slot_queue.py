"""The work that waits for a slot, and the rules by which slots are shared.

A slot holds a prompt that is read, or one choice that is generated. These rules apply at each step:

1. A free slot goes to the owner that holds the fewest slots; among equals, they take turns.
2. The requests of an owner take turns, in the order in which they came. A request takes one slot in
   each round, so one with many choices does not keep others from starting.
3. If no slot is free, an owner that holds at least two slots fewer than another one takes a slot
   from it at once. Otherwise work keeps its slot for a turn of `turn_steps` steps. Then other work
   of the same owner, or of an owner that holds one slot less, takes it.

Work that loses its slot waits as the last of its owner and continues later. So all work advances,
after a number of steps that depends only on the amount of work that waits.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from wkv.batching.request import RequestHandle

TURN_STEPS = 256
"""Steps after which work gives its slot to work that waits."""


class Work(Protocol):
    """A prompt to read or a choice to generate.

    Attributes:
        handle: the request that it belongs to.
        n_choices: number of choices that it stands for.
        unread_tokens: tokens of its prompt that were not read yet.
    """

    @property
    def handle(self) -> RequestHandle: ...  # noqa: D102
    @property
    def n_choices(self) -> int: ...  # noqa: D102
    @property
    def unread_tokens(self) -> int: ...  # noqa: D102


AnyWork = TypeVar("AnyWork", bound=Work)


@dataclass(frozen=True)
class Handover(Generic[AnyWork]):
    """The changes of one step.

    Attributes:
        stopped: work that has lost its slot, and waits again.
        started: work that has received a slot.
    """

    stopped: list[AnyWork]
    started: list[AnyWork]


class SlotQueue(Generic[AnyWork]):
    """The work that waits. It is not thread-safe.

    Attributes:
        slots: number of slots.
        turn_steps: the length of a turn.
    """

    def __init__(self, slots: int, turn_steps: int = TURN_STEPS) -> None:
        self.slots = slots
        self.turn_steps = turn_steps
        self._owners: dict[str, OrderedDict[RequestHandle, deque[AnyWork]]] = {}
        self._begun: dict[AnyWork, int] = {}  # the step in which running work received its slot
        self._gained: dict[str, int] = {}  # a number that grows with each gain, by owner
        self._gains = 0
        self._step = 0

    def __len__(self) -> int:
        """Return the number of requests that wait."""
        return sum(len(requests) for requests in self._owners.values())

    def __iter__(self) -> Iterator[AnyWork]:
        """Yield all work that waits, owner by owner."""
        for requests in self._owners.values():
            for works in requests.values():
                yield from works

    def push(self, work: AnyWork) -> None:
        """Let work wait, after the requests of its owner; a request that waits keeps its place."""
        requests = self._owners.setdefault(work.handle.request.owner, OrderedDict())
        requests.setdefault(work.handle, deque()).append(work)

    def remove_cancelled(self) -> None:
        """Remove the work of requests that were cancelled."""
        for owner, requests in list(self._owners.items()):
            for handle in [handle for handle in requests if handle.is_cancelled]:
                del requests[handle]
            if not requests:
                del self._owners[owner]

    def clear(self) -> None:
        """Remove all work."""
        self._owners.clear()

    def step(self, running: Sequence[AnyWork]) -> Handover[AnyWork]:
        """Share the slots, given the work that holds one now."""
        self._step += 1
        if not self._owners:
            self._begun.clear()  # turns are counted from the time at which others begin to wait
            self._gained.clear()
            return Handover([], [])
        self._begun = {work: self._begun.get(work, self._step) for work in running}
        held = Counter(work.handle.request.owner for work in running)
        self._note_owners(held)
        gains = self._gains
        stopped: list[AnyWork] = []
        started: list[AnyWork] = []
        blocked: set[str] = set()
        while (owner := self._next_owner(held, blocked)) is not None:
            loser: str | None = None
            if len(self._begun) >= self.slots:
                work = self._to_stop(held, owner, gains)
                if work is None:
                    blocked.add(owner)
                    continue
                stopped.append(work)
                loser = work.handle.request.owner
                held[loser] -= 1
                del self._begun[work]
            work = self._pop(owner)
            started.append(work)
            held[owner] += 1
            self._begun[work] = self._step
            if loser != owner:
                self._gains += 1
                self._gained[owner] = self._gains
        for work in stopped:
            self.push(work)
        return Handover(stopped, started)

    def _note_owners(self, held: Mapping[str, int]) -> None:
        """Forget owners that have no work left, and let new ones come after all others."""
        present = dict.fromkeys((*self._owners, *held))
        self._gained = {owner: number for owner, number in self._gained.items() if owner in present}
        for owner in present:
            if owner not in self._gained:
                self._gains += 1
                self._gained[owner] = self._gains

    def _next_owner(self, held: Mapping[str, int], blocked: set[str]) -> str | None:
        """Return the owner with the fewest slots; of equals, the one that gained one first."""
        owners = (owner for owner in self._owners if owner not in blocked)
        return min(owners, key=lambda owner: (held[owner], self._gained[owner]), default=None)

    def _to_stop(self, held: Mapping[str, int], owner: str, gains: int) -> AnyWork | None:
        """Return the work whose slot an owner may take over, or None.

        Within a step, an owner that has just gained a slot (after `gains`) does not lose one.
        """
        best, most = None, (0, 0)
        for work, begun in self._begun.items():
            other = work.handle.request.owner
            steps, more = self._step - begun, held[other] - held[owner]
            may_lose_one = more == 1 and self._gained[other] <= gains
            is_over = steps >= self.turn_steps and (other == owner or may_lose_one)
            if (is_over or (more > 1 and steps > 0)) and (held[other], steps) > most:
                best, most = work, (held[other], steps)
        return best

    def _pop(self, owner: str) -> AnyWork:
        """Take the next work of an owner."""
        requests = self._owners[owner]
        handle, works = next(iter(requests.items()))
        work = works.popleft()
        if works:
            requests.move_to_end(handle)
        else:
            del requests[handle]
        if not requests:
            del self._owners[owner]
        return work
