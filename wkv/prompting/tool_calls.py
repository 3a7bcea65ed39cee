"""Streaming parser that finds the tool calls in a reply; everything else is text.

Calls are JSON, either in a fence, or without a fence at the beginning of the reply. There may be
one call or a list of calls:

    ```json
    {"name": "weather", "arguments": {"city": "Paris"}}
    ```

A call is reported when it is complete and not before: a text that resembles a call may turn out
not to be one, and no client should act on half a call. Blanks around a call belong to it. If the
prompt forces a call, and the reply is cut off within it, the known part is reported at the end.
"""

import json
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from wkv.inference.sequence import overlap

FENCE = "```json"
FENCE_END = "```"
BLANKS = " \t\r\n"
MAX_DEPTH = 64

KEYS = frozenset({"name", "arguments", "parameters", "function", "type", "id"})
"""Keys that may occur in a call; an object with any other key is text."""

CUT_CALL = re.compile(r'\{\s*"name":\s*"([\w-]+)"(?:,\s*"arguments":\s*(.*))?', re.DOTALL)
"""A call whose end is missing: its name, and its arguments as far as they go."""

OUTSIDE_STRINGS = frozenset('{}[]:,"+-.0123456789eEtrufalsn' + BLANKS)


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that is not part of a call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The beginning of a call.

    Attributes:
        index: number of the call in the reply.
        id: identifier that the client returns with the result.
        name: name of the tool.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The arguments of a call: a JSON object, exactly as the model wrote it."""

    index: int
    fragment: str


CallEvent = TextPiece | CallBegun | CallArguments


def new_call_id() -> str:
    """Return a unique id for a call."""
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """A parser that separates text and calls in a streamed reply.

    The result does not depend on how the reply is split into pieces.

    Attributes:
        calls: number of calls so far.
        is_cut: whether the last call is incomplete.
    """

    def __init__(
        self,
        names: Collection[str],
        *,
        assistant_prefix: str = "",
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        """Prepare a parser for one reply.

        Args:
            names: names of the tools; a call of any other name is text.
            assistant_prefix: beginning of a call that the prompt contains; see
                `wkv.prompting.tools.call_prefix`. It is never reported as text.
            new_id: returns an id for each call.
        """
        self.calls = 0
        self.is_cut = False
        self._names = names
        self._new_id = new_id
        self._pending = assistant_prefix
        self._prefix = len(assistant_prefix)  # characters of it in the pending text
        self._may_begin = True  # whether a call without a fence may begin here
        self._fenced = False  # whether the fence of the last call is still open
        self._span: JsonSpan | None = None

    def push(self, text: str) -> list[CallEvent]:
        """Add text and return the events that it completes."""
        self._pending += text
        return self._parse(final=False)

    def flush(self) -> list[CallEvent]:
        """Return the remaining events; call it at the end of the reply."""
        return self._parse(final=True)

    def _parse(self, *, final: bool) -> list[CallEvent]:
        events: list[CallEvent] = []
        while self._pending and self._step(events, final):
            pass
        return events

    def _step(self, events: list[CallEvent], final: bool) -> bool:
        """Parse the beginning of the pending text; returns False if more text is needed."""
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
        """Report text up to a fence, or up to a possible beginning of one."""
        text = self._pending
        place = text.find(FENCE)
        if place >= 0:
            return self._try_call(place, events, final)
        keep = 0 if final else overlap(text, FENCE)
        shown = text[: len(text) - keep]
        if not final:
            shown = shown.rstrip(BLANKS)
        self._emit_text(shown, len(shown), events)
        return False

    def _try_call(self, place: int, events: list[CallEvent], final: bool) -> bool:
        """Report the calls at a position of the pending text, or that position as plain text."""
        text = self._pending
        fenced = text.startswith(FENCE, place)
        begin = place + len(FENCE) if fenced else place
        span = self._span = self._span or JsonSpan(begin)
        if not span.look(text):
            if not final:
                return False
            if self._prefix:
                self._report_cut_call(text[begin:], events)
                return False
        self._span = None
        calls = calls_in(text[begin : span.end], self._names) if span.end else []
        if calls:
            self._emit_text(text[:place].rstrip(BLANKS), span.end, events)
            self._emit_calls(calls, events)
            self._fenced = self._fenced or fenced
        else:
            taken = begin if fenced else begin + 1
            self._emit_text(text[:taken], taken, events)
            self._fenced = False
        self._may_begin = bool(calls)
        return True

    def _emit_text(self, text: str, taken: int, events: list[CallEvent]) -> None:
        """Report text, and remove `taken` characters from the pending text."""
        if len(text) > self._prefix:
            events.append(TextPiece(text[self._prefix :]))
        self._prefix = max(0, self._prefix - taken)
        self._pending = self._pending[taken:]

    def _report_cut_call(self, text: str, events: list[CallEvent]) -> None:
        """Report the calls of a reply that was cut off in a call that the prompt forced."""
        rest, calls = text.lstrip(BLANKS + "["), []
        with suppress(ValueError):
            while True:
                _, end = DECODER.raw_decode(rest)
                calls.append(_call_of(rest[:end], self._names))
                rest = rest[end:].lstrip(BLANKS + ",")
        cut = CUT_CALL.match(rest)
        self.is_cut = cut is not None and cut[1] in self._names
        if cut is not None and self.is_cut:
            calls.append((cut[1], cut[2] or ""))
        self._emit_calls(calls, events)
        self._pending = ""

    def _emit_calls(self, calls: list[tuple[str, str]], events: list[CallEvent]) -> None:
        for name, arguments in calls:
            events.append(CallBegun(self.calls, self._new_id(), name))
            if arguments:
                events.append(CallArguments(self.calls, arguments))
            self.calls += 1


class JsonSpan:
    """A scanner for the end of a JSON object or list in growing text; it reads each character once.

    The scan fails at the first character that is not valid JSON, or if the first key is not in
    KEYS, so that ordinary text is not held back for long.

    Attributes:
        end: position after the JSON value; 0 if it is unknown or the text is not JSON.
    """

    def __init__(self, begin: int) -> None:
        self.end = 0
        self._at = begin
        self._depth = 0
        self._string = -1  # start of the current string; -1 outside strings
        self._escaped = False
        self._is_first = True

    def look(self, text: str) -> bool:
        """Read the new text; returns True if the end was found or the text is not JSON."""
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
        """Read a character of a string; returns whether the text may still be a call."""
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
        """Read a character outside strings; returns whether the text may still be a call."""
        if self._depth == 0 and character not in BLANKS + "{[":
            return False
        if character == '"':
            self._string = self._at
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
        return character in OUTSIDE_STRINGS and self._depth <= MAX_DEPTH


def calls_in(text: str, names: Collection[str]) -> list[tuple[str, str]]:
    """Return the names and arguments of the calls in a JSON text; empty if it is anything else."""
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
        raise ValueError("unknown keys in a call")
    if "function" in members:
        members = _members(members["function"][1])
    name, _ = members.get("name", (None, ""))
    value, raw = members.get("arguments") or members.get("parameters") or (None, "")
    if isinstance(value, str):
        raw, value = value, DECODER.decode(value)
        raw.encode()  # raises for half a surrogate pair, which cannot be sent
    if not isinstance(value, dict) or not isinstance(name, str) or name not in names:
        raise ValueError("not a call of a known tool")
    return name, raw


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """Return the members of an object: each key with its value and the text of the value."""
    if text[0] != "{":
        raise ValueError("not an object")
    values = list(_values(text))
    return {key: value for (key, _), value in zip(values[::2], values[1::2], strict=True)}


def _values(text: str) -> Iterator[tuple[Any, str]]:
    """Yield the elements of a JSON list, or alternating keys and values of an object, with text.

    The original text is needed because parsing and writing again would change numbers and blanks,
    and the cached state after the call would not be found.
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
    raise ValueError(f"{name} is not valid JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)
