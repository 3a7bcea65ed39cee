"""What the server said, by what it had read before.

So a reply that comes back in a conversation's history is known by the very ids that were drawn,
its state is found, and nothing is read again.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

MOST_IDS = 4_000_000
"""Ids that are remembered, over all replies; some 100 MB."""


@dataclass(frozen=True)
class Said:
    """A reply as the model's state knows it.

    Attributes:
        ids: of the turn before it, with the name of the speaker, and of the reply.
        ahead: what they hold beyond the reply's text: the separator, the next speaker.
    """

    ids: tuple[int, ...]
    ahead: str


class Replies:
    """A memory of replies, the newest used; safe to use from any thread."""

    def __init__(self, limit: int = MOST_IDS) -> None:
        self._limit = limit
        self._said: OrderedDict[bytes, Said] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def remember(
        self, tenant: str, before: Sequence[int], turn: str, reply: str, said: Said
    ) -> None:
        """Remember what was said after the ids `before` and the text of a turn."""
        key = _key(tenant, before, turn, reply)
        with self._lock:
            old = self._said.pop(key, None)
            self._size += len(said.ids) - (len(old.ids) if old else 0)
            self._said[key] = said
            while self._size > self._limit:
                _, gone = self._said.popitem(last=False)
                self._size -= len(gone.ids)

    def recall(self, tenant: str, before: Sequence[int], turn: str, reply: str) -> Said | None:
        """What was said there, if it was this reply."""
        key = _key(tenant, before, turn, reply)
        with self._lock:
            said = self._said.get(key)
            if said is not None:
                self._said.move_to_end(key)
            return said


def _key(tenant: str, before: Sequence[int], turn: str, reply: str) -> bytes:
    digest = hashlib.sha256()
    for text in (tenant, turn, reply):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    digest.update(b"".join(token.to_bytes(4, "little") for token in before))
    return digest.digest()
