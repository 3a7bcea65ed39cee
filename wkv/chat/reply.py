"""A reply while it is being made, and what is known of it at its end."""

import codecs
from collections.abc import Iterator
from typing import Protocol

from wkv.inference.generate import Completion
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled
from wkv.inference.stream import Stream

SLACK = 100
"""Tokens that a reply may go over its limit to complete a character."""


class Keeper(Protocol):
    """What begins replies and keeps their states."""

    def finish(self, reply: "Reply") -> None:
        """Keep what a reply left behind."""
        ...


class Reply(Iterator[str]):
    """An iterator over pieces of text; when it has ended, give it to its owner's `finish`.

    Ctrl-C while a piece is being made ends it and keeps what was said; where Ctrl-C may strike
    between two pieces, call `interrupt`.

    Attributes:
        owner: what keeps the state afterwards.
        reading: the prompt that was read for it.
        assistant_prefix: how it begins, written by us and not among the pieces.
        goes_on: it continues a text, so that its first blanks mean something.
        is_free: it is no turn of a chat; that it was cut off is no news.
    """

    def __init__(
        self,
        model: Model,
        stream: Stream,
        *,
        owner: Keeper,
        limit: int,
        reading: Prefilled | None = None,
        assistant_prefix: str = "",
        goes_on: bool = False,
        is_free: bool = False,
    ) -> None:
        self.owner = owner
        self.reading = reading
        self.assistant_prefix = assistant_prefix
        self.goes_on = goes_on
        self.is_free = is_free
        self._model = model
        self._stream = stream
        self._limit = limit

    def __next__(self) -> str:
        """The next piece; at the limit, the reply ends with the next whole character."""
        piece = next(self._stream)
        ids = self._stream.token_ids
        if len(ids) >= self._limit and _is_whole(self._model.tokenizer.decode_bytes(ids)):
            piece += self._stream.interrupt("length")
        return piece

    def interrupt(self) -> str:
        """End the reply here; returns the text that was held back until now."""
        return self._stream.interrupt()

    @property
    def result(self) -> Completion:
        """The generation; if it has not ended, it ends here, as interrupted."""
        return self._stream.result

    def split(self) -> tuple[str, str]:
        """What was said, and what the state has read beyond it: newlines, the next speaker."""
        done = self.result
        said = done.text.rstrip("\n")
        absorbed = self._model.tokenizer.decode(done.token_ids)
        return said, absorbed[len(said) :] if absorbed.startswith(said) else ""


def _is_whole(data: bytes) -> bool:
    """Whether bytes do not end within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-3:])
    return not decoder.getstate()[0]
