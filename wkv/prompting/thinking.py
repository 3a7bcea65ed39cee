"""Separation of a model's thoughts (`<think>...</think>` at the start) from its answer."""

from dataclasses import dataclass

from wkv.inference.sequence import overlap

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True)
class ThoughtPiece:
    """A piece of a reply that is either thoughts or answer.

    Attributes:
        text: the text, without the tags.
        is_thought: whether the text is between the tags.
    """

    text: str
    is_thought: bool


class Thoughts:
    """A parser that splits a streamed reply into thoughts and answer.

    Blanks at the beginning of the thoughts and of the answer are removed.
    """

    def __init__(self, assistant_prefix: str = "") -> None:
        """Prepare a parser for one reply.

        Args:
            assistant_prefix: beginning of the reply that the prompt contains, in which the ">" of
                the last tag is missing; see `wkv.prompting.template.Thinking`. It is not returned.
        """
        self._held = ""
        self._at_start = True
        self._inside: bool | None = None  # None: undecided, the reply may still begin with a tag
        self._lacks_bracket = OPEN[:-1] in assistant_prefix
        if self._lacks_bracket:
            self._inside = CLOSE[:-1] not in assistant_prefix

    def push(self, text: str) -> list[ThoughtPiece]:
        """Add text and return the pieces that can be displayed now, possibly none."""
        if self._lacks_bracket and text:
            text, self._lacks_bracket = text.removeprefix(">"), False
        self._held += text
        pieces: list[ThoughtPiece] = []
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

    def flush(self) -> list[ThoughtPiece]:
        """Return the text that was held back; call it at the end of the reply."""
        text, self._held = self._held, ""
        return self._shown(text, bool(self._inside))

    def _shown(self, text: str, is_thought: bool) -> list[ThoughtPiece]:
        if self._at_start:
            text = text.lstrip()
        if not text:
            return []
        self._at_start = False
        return [ThoughtPiece(text, is_thought)]
