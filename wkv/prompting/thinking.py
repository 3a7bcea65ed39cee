"""Telling a model's thoughts from its answer, piece by piece: `<think>...</think>` at the start."""

from dataclasses import dataclass

from wkv.inference.sequence import overlap

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class Piece:
    """A piece of what a model says.

    Attributes:
        text: without the tags.
        is_thought: it stands inside of them.
    """

    text: str
    is_thought: bool


class Thoughts:
    """Splits a reply that comes in pieces. Blanks that begin thoughts or answer are dropped."""

    def __init__(self) -> None:
        self._held = ""
        self._at_start = True
        self._inside: bool | None = None  # None: not known yet

    def push(self, text: str) -> list[Piece]:
        """What can be shown after this piece; it may be empty."""
        self._held += text
        pieces: list[Piece] = []
        if self._inside is None:
            begun = self._held.lstrip()
            if len(begun) < len(OPEN) and OPEN.startswith(begun):
                return []
            self._inside = begun.startswith(OPEN)
            self._held = begun.removeprefix(OPEN)
        if self._inside:
            thought, closed, rest = self._held.partition(CLOSE)
            if not closed:
                shown = thought[: len(thought) - overlap(thought, CLOSE)].rstrip()
                self._held = thought[len(shown) :]
                return self._shown(shown, True)
            pieces += self._shown(thought.rstrip(), True)
            self._inside, self._at_start, self._held = False, True, rest
        pieces += self._shown(self._held, False)
        self._held = ""
        return pieces

    def flush(self) -> list[Piece]:
        """What was held back until the end."""
        text, self._held = self._held, ""
        return self._shown(text, bool(self._inside))

    def _shown(self, text: str, is_thought: bool) -> list[Piece]:
        if self._at_start:
            text = text.lstrip()
        if not text:
            return []
        self._at_start = False
        return [Piece(text, is_thought)]
