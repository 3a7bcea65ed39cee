"""Finds the calls in a reply while it is being written; everything else is text.

A call is written as JSON, in a fence or bare at the very beginning, one or a list of them:

    ```json
    {"name": "weather", "arguments": {"city": "Paris"}}
    ```

It is handed out when it is complete and not before: what looks like a call may turn out to be text,
and no client should begin to act on half a call. Blanks around a call belong to it.
"""

import json
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from wkv.inference.sequence import overlap

FENCE = "```json"
FENCE_END = "```"
BLANKS = " \t\r\n"
DEEPEST = 64

KEYS = frozenset({"name", "arguments", "parameters", "function", "type", "id"})
"""What an object may have that is a call."""

OUTSIDE_STRINGS = frozenset('{}[]:,"+-.0123456789eEtrufalsn' + BLANKS)


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that is no part of a call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call begins.

    Attributes:
        index: its number in the reply.
        id: what its result will be given under.
        name: of the tool.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """Text of a call's arguments, a JSON object, as it was written."""

    index: int
    fragment: str


CallEvent = TextPiece | CallBegun | CallArguments


def new_call_id() -> str:
    """A name for a call that no other has."""
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """Takes a reply in pieces, and tells text from calls. However it is cut, the same comes out."""

    def __init__(
        self,
        names: Collection[str],
        *,
        assistant_prefix: str = "",
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        """Begin a reply.

        Args:
            names: of the tools; what calls anything else is text.
            assistant_prefix: beginning of the reply that the prompt contains; see
                `wkv.prompting.tools.call_prefix`.
            new_id: gives each call its id.
        """
        self.calls = 0
        self._names = names
        self._new_id = new_id
        self._pending = assistant_prefix
        self._may_begin = True  # a bare call, here
        self._fenced = False  # what was last was a call whose fence is open
        self._span: JsonSpan | None = None

    def push(self, text: str) -> list[CallEvent]:
        """What a piece of the reply completes."""
        self._pending += text
        return self._settled(final=False)

    def flush(self) -> list[CallEvent]:
        """What is left when the reply has ended."""
        return self._settled(final=True)

    def _settled(self, *, final: bool) -> list[CallEvent]:
        events: list[CallEvent] = []
        while self._pending and self._step(events, final):
            pass
        return events

    def _step(self, events: list[CallEvent], final: bool) -> bool:
        """Settle what the beginning of the pending text is; false if that takes more text."""
        if not self._may_begin:
            return self._find_fence(events, final)
        rest = self._pending.lstrip(BLANKS)
        if not rest.startswith(FENCE) and FENCE.startswith(rest) and not final:
            return False
        if rest.startswith((FENCE, "{", "[")):
            return self._try_call(len(self._pending) - len(rest), events, final)
        if self._fenced and rest.startswith(FENCE_END):
            self._fenced = False
            self._pending = rest[len(FENCE_END) :]
            return True
        if self.calls:
            self._pending = rest
        self._may_begin = self._fenced = False
        return True

    def _find_fence(self, events: list[CallEvent], final: bool) -> bool:
        """Hand out text up to a fence, or to what could become one."""
        text = self._pending
        place = text.find(FENCE)
        if place >= 0:
            return self._try_call(place, events, final)
        keep = 0 if final else overlap(text, FENCE)
        said = text[: len(text) - keep]
        if not final:
            said = said.rstrip(BLANKS)
        self._say(said, len(said), events)
        return False

    def _try_call(self, place: int, events: list[CallEvent], final: bool) -> bool:
        """Hand out what begins at a place of the pending text: calls, or what only looked so."""
        text = self._pending
        fenced = text.startswith(FENCE, place)
        begin = place + len(FENCE) if fenced else place
        span = self._span = self._span or JsonSpan(begin)
        if not span.look(text) and not final:
            return False
        self._span = None
        calls = calls_in(text[begin : span.end], self._names) if span.end else []
        if calls:
            self._say(text[:place].rstrip(BLANKS), span.end, events)
            self._call(calls, events)
            self._fenced = self._fenced or fenced
        else:
            taken = begin if fenced else begin + 1
            self._say(text[:taken], taken, events)
            self._fenced = False
        self._may_begin = bool(calls)
        return True

    def _say(self, text: str, taken: int, events: list[CallEvent]) -> None:
        """Hand out text, and take as many characters off the pending text."""
        if text:
            events.append(TextPiece(text))
        self._pending = self._pending[taken:]

    def _call(self, calls: list[tuple[str, str]], events: list[CallEvent]) -> None:
        for name, arguments in calls:
            events.append(CallBegun(self.calls, self._new_id(), name))
            events.append(CallArguments(self.calls, arguments))
            self.calls += 1


class JsonSpan:
    """Looks for the end of a JSON object or list in growing text, reading each character once.

    It gives up at the first character that shows that it is no JSON, or at a first key that no
    call has, so that text does not wait for long.

    Attributes:
        end: where it ends; 0 while that is not known, or if it has none.
    """

    def __init__(self, begin: int) -> None:
        self.end = 0
        self._at = begin
        self._depth = 0
        self._string = -1  # where the string began that is being read
        self._escaped = False
        self._is_first = True

    def look(self, text: str) -> bool:
        """Read on; true when it is known where it ends, or that it has no end."""
        while self._at < len(text):
            character = text[self._at]
            inside = self._string >= 0
            if not (self._inside(text, character) if inside else self._outside(character)):
                return True
            self._at += 1
            if not inside and self._depth == 0 and character in "]}":
                self.end = self._at
                return True
        return False

    def _inside(self, text: str, character: str) -> bool:
        """Whether it may go on after a character of a string."""
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            key, is_first = text[self._string + 1 : self._at], self._is_first
            self._string, self._is_first = -1, False
            return not is_first or key in KEYS
        return character >= " "

    def _outside(self, character: str) -> bool:
        """Whether it may go on after a character outside of strings."""
        if self._depth == 0 and character not in BLANKS + "{[":
            return False
        if character == '"':
            self._string = self._at
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return character in OUTSIDE_STRINGS and self._depth <= DEEPEST


def calls_in(text: str, names: Collection[str]) -> list[tuple[str, str]]:
    """The names and arguments of the calls that a JSON text holds; none if it is anything else."""
    text = text.strip(BLANKS)
    try:
        DECODER.decode(text)
        parts = [text] if text[0] == "{" else [raw for _, raw in _values(text)]
        return [_call_of(part, names) for part in parts]
    except ValueError:
        return []


def _call_of(text: str, names: Collection[str]) -> tuple[str, str]:
    members = _members(text)
    if not members.keys() <= KEYS:
        raise ValueError("a call has no such keys")
    if "function" in members:
        members = _members(members["function"][1])
    name, _ = members.get("name", (None, ""))
    value, raw = members.get("arguments") or members.get("parameters") or (None, "")
    if isinstance(value, str):
        raw, value = value, DECODER.decode(value)
        raw.encode()  # half a surrogate pair cannot be sent
    if not isinstance(value, dict) or not isinstance(name, str) or name not in names:
        raise ValueError("no call of a tool that is known")
    return name, raw


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """The members of an object, each with how it was written."""
    if text[0] != "{":
        raise ValueError("no object")
    values = list(_values(text))
    return {key: value for (key, _), value in zip(values[::2], values[1::2], strict=True)}


def _values(text: str) -> Iterator[tuple[Any, str]]:
    """What stands in valid JSON, an object (keys and values in turn) or a list, as it was written.

    Numbers would change if they were read and written again, and so would the blanks that the
    model knows its call by.
    """
    at = 1
    while True:
        while text[at] in BLANKS + ",:":
            at += 1
        if at == len(text) - 1:
            return
        value, end = DECODER.raw_decode(text, at)
        yield value, text[at:end]
        at = end


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)
