"""Requests to the scheduler, and the events that it answers them with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from wkv.errors import WKVError
from wkv.inference.sampling import SampledToken, Sampling
from wkv.inference.sequence import DraftCounts, LogitsProcessor
from wkv.models.state import State

MAX_UNREAD_EVENTS = 256
"""Events that may wait for a client before its sequences are paused."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and the parameters of its continuation.

    Attributes:
        ids: the whole prompt; the cache supplies the state of a prefix that was read before.
        sampling: the sampling parameters.
        max_tokens: the largest number of tokens of each choice.
        stops: strings that end a choice.
        choices: number of continuations.
        message_boundaries: positions in `ids` at which messages end; states are cached there.
        tenant: who asks, such as the digest of an API key. Tenants share the slots fairly, and
            never see each other's cached states. With an initial state, this is "KEY/STATE":
            `owner_of` gives the part that slots and limits are counted for.
        start: the initial state, which the model continues from instead of the empty state; None
            for the empty state. Cached states are found by tenant and ids only, so requests with
            different initial states need different tenants.
        logits_processors: one for each choice, or empty.
        top_logprobs: number of alternatives to return per token, or None for no logprobs.
        cache: whether states are cached at all.
        prediction: tokens that the reply may contain; they are drafted.
    """

    ids: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stops: tuple[str, ...] = ()
    choices: int = 1
    message_boundaries: tuple[int, ...] = ()
    tenant: str = ""
    start: State | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()
    top_logprobs: int | None = None
    cache: bool = True
    prediction: tuple[int, ...] = ()

    @property
    def owner(self) -> str:
        """The tenant that slots and limits are counted for."""
        return owner_of(self.tenant)


def owner_of(tenant: str) -> str:
    """Return the part of a tenant's name before the first slash: an API key without its states."""
    return tenant.partition("/")[0]


@dataclass(frozen=True, slots=True)
class PrefillDone:
    """The prompt was read; the state of `cached` of its tokens came from the cache."""

    cached: int


@dataclass(frozen=True, slots=True)
class TextEvent:
    """A choice has grown; the text is empty if the token completes no character.

    Attributes:
        choice: number of the choice.
        text: without incomplete characters and stop strings.
        token: the sampled id, or None for text that was held back until the end.
        logprobs: those of the token, if the request asks for them.
    """

    choice: int
    text: str
    token: int | None = None
    logprobs: SampledToken | None = None


@dataclass(frozen=True, slots=True)
class ChoiceDone:
    """A choice has ended.

    Attributes:
        choice: number of the choice.
        finish_reason: "stop" or "length".
        token_ids: all sampled ids, without an end of text.
        state: the state that has read the prompt and `token_ids`, or all of them but the last.
        drafts: passes and drafts; zeros without speculative decoding.
        stop_string: the stop string that ended it, or "".
    """

    choice: int
    finish_reason: str
    token_ids: tuple[int, ...]
    state: State
    drafts: DraftCounts = field(default_factory=DraftCounts)
    stop_string: str = ""


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """The request has ended with an error; no event follows."""

    error: WKVError


Event = PrefillDone | TextEvent | ChoiceDone | RequestFailed
Deliver = Callable[[Event], None]


@dataclass(eq=False)
class RequestHandle:
    """A submitted request, as its client holds it. All methods are thread-safe.

    Attributes:
        request: the request.
        deliver: receives the events, in the scheduler's thread.
    """

    request: Request
    deliver: Deliver
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _unread: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cancel(self) -> None:
        """Stop at the next token; no event is delivered after it."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has cancelled the request."""
        return self._cancelled.is_set()

    def send(self, event: Event) -> None:
        """Deliver an event, unless the request was cancelled."""
        if self.is_cancelled:
            return
        with self._lock:
            self._unread += 1
        self.deliver(event)

    def fail(self, error: WKVError) -> None:
        """Deliver an error as the last event of the request."""
        self.send(RequestFailed(error))
        self.cancel()

    def acknowledge(self) -> None:
        """Count one event as read by the client."""
        with self._lock:
            self._unread -= 1

    @property
    def is_backpressured(self) -> bool:
        """Whether so many events are unread that the sequences must pause."""
        return self._unread >= MAX_UNREAD_EVENTS

    @property
    def is_behind(self) -> bool:
        """Whether too many events are unread to resume paused sequences."""
        return self._unread >= MAX_UNREAD_EVENTS // 2


def as_wkv_error(error: Exception) -> WKVError:
    """Return an error for the client; an unexpected exception becomes an error of the model."""
    return error if isinstance(error, WKVError) else WKVError(f"the model failed: {error!r}")
