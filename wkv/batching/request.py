"""What is asked of the scheduler, and what it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from wkv.errors import WKVError
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import Adjust
from wkv.models.state import State

MOST_WAITING = 256
"""Pieces that may wait for a reader before its sequence is set aside."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt, and how to go on from it.

    Attributes:
        ids: the whole prompt; what of it was read before is found in the cache.
        sampling: how tokens are drawn; choice i of several has the seed plus i.
        max_tokens: of each choice.
        stops: strings that end a choice.
        choices: how many continuations.
        borders: positions in `ids` where a message ends; states are kept there.
        tenant: whose states these are; others neither find nor disturb them.
        start: the state that the prompt goes on from. It belongs into the tenant's name.
        adjusts: for each choice, what changes the logits before each draw; or empty.
        chances: how many of the likeliest tokens to tell beside each token drawn; None: no chances.
        keeps: whether states are kept in the cache at all.
    """

    ids: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...] = ()
    choices: int = 1
    borders: tuple[int, ...] = ()
    tenant: str = ""
    start: State | None = None
    adjusts: tuple[Adjust, ...] = ()
    chances: int | None = None
    keeps: bool = True


@dataclass(frozen=True, slots=True)
class Chance:
    """A token and the logarithm of its probability, before penalties and temperature."""

    token: int
    log_probability: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token that was drawn, its chance, and the likeliest ones in its place."""

    token: int
    log_probability: float
    likeliest: tuple[Chance, ...] = ()


@dataclass(frozen=True, slots=True)
class Begun:
    """The prompt was read; `cached` of its tokens had been read before."""

    cached: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that a choice goes on with; it may be empty where a token completes no character.

    Attributes:
        choice: its number.
        text: without half characters and stop strings.
        token: that was drawn, or None for text that was held back until the end.
        drawn: the token's chances, where they were asked for.
    """

    choice: int
    text: str
    token: int | None = None
    drawn: Drawn | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A choice has ended.

    Attributes:
        choice: its number.
        reason: "stop" or "length".
        token_ids: all that was drawn, without an end of text.
        state: has read the prompt and `token_ids`, or all of them but the last.
    """

    choice: int
    reason: str
    token_ids: tuple[int, ...]
    state: State


@dataclass(frozen=True, slots=True)
class Failed:
    """The request has ended with an error; nothing comes after this."""

    error: WKVError


Event = Begun | Piece | Ended | Failed
Deliver = Callable[[Event], None]


@dataclass(eq=False)
class Ticket:
    """A request on its way: what its owner holds to stop it. All methods may be called anywhere.

    Attributes:
        request: what was asked.
        deliver: takes the events; called by the scheduler's thread.
    """

    request: Request
    deliver: Deliver
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cancel(self) -> None:
        """Stop at the next token; nothing is delivered after it."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether its owner wants no more."""
        return self._cancelled.is_set()

    def send(self, event: Event) -> None:
        """Deliver an event, unless nobody wants it."""
        if self.is_cancelled:
            return
        with self._lock:
            self._waiting += 1
        self.deliver(event)

    def fail(self, error: WKVError) -> None:
        """Tell the owner of an error, and that nothing comes after it."""
        self.send(Failed(error))
        self.cancel()

    def taken(self) -> None:
        """Say that one event has reached the reader."""
        with self._lock:
            self._waiting -= 1

    @property
    def is_full(self) -> bool:
        """Whether the reader is so far behind that more would only pile up."""
        return self._waiting >= MOST_WAITING

    @property
    def is_behind(self) -> bool:
        """Whether the reader has not yet caught up so far that going on is worth it."""
        return self._waiting >= MOST_WAITING // 2


def likeliest(logits: Tensor, token: int, count: int) -> Drawn:
    """The chance of a token and the `count` likeliest ones, from logits (V,)."""
    chances = logits.float().log_softmax(-1)
    values, ids = chances.topk(count)
    top = tuple(map(Chance, ids.tolist(), values.tolist()))
    return Drawn(token, float(chances[token]), top)


def as_wkv_error(error: Exception) -> WKVError:
    """An error as its owner is told it; one that is not ours is the server's."""
    return error if isinstance(error, WKVError) else WKVError(f"the model failed: {error!r}")
