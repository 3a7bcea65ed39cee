"""A chat reply that is streamed, and the text that the state has read beyond it."""

import codecs
from collections.abc import Iterator
from typing import Protocol

from wkv.inference.generate import Completion
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled
from wkv.inference.stream import Stream

SLACK = 100
"""Tokens that a reply may exceed its limit by, in order to complete a character."""


class ReplyOwner(Protocol):
    """The interface of an object that starts replies and stores the states after them."""

    def finish(self, reply: "ChatReply") -> None:
        """Store the state after a reply."""
        ...


class ChatReply(Iterator[str]):
    """An iterator over pieces of text; when it has ended, pass it to its owner's `finish`.

    Ctrl-C while a piece is generated ends the reply and keeps the text so far. If Ctrl-C may occur
    between two pieces, catch KeyboardInterrupt around the loop and call `interrupt`.

    Attributes:
        owner: the object that stores the state after the reply.
        prefilled: the prompt that was read for the reply; None if none was read.
        assistant_prefix: the beginning of the reply that the prompt contains; not in the pieces.
        goes_on: whether the reply continues a text, so that blanks at its beginning matter.
    """

    def __init__(
        self,
        model: Model,
        stream: Stream,
        *,
        owner: ReplyOwner,
        limit: int,
        prefilled: Prefilled | None = None,
        assistant_prefix: str = "",
        goes_on: bool = False,
    ) -> None:
        self.owner = owner
        self.prefilled = prefilled
        self.assistant_prefix = assistant_prefix
        self.goes_on = goes_on
        self._model = model
        self._stream = stream
        self._limit = limit

    def __next__(self) -> str:
        """Return the next piece; at the limit, the reply ends with the next complete character."""
        piece = next(self._stream)
        ids = self._stream.token_ids
        if len(ids) >= self._limit and _is_complete(self._model.tokenizer.decode_bytes(ids)):
            piece += self._stream.interrupt("length")
        return piece

    def interrupt(self) -> str:
        """End the reply here; returns the text that was held back until now."""
        return self._stream.interrupt()

    @property
    def result(self) -> Completion:
        """The completion; a reply that has not ended ends here, as interrupted."""
        return self._stream.result

    def split(self) -> tuple[str, str]:
        """Return the text of the reply, and the newlines or speaker that the state read after."""
        done = self.result
        text = done.text.rstrip("\n")
        read = self._model.tokenizer.decode(done.token_ids)
        return text, read[len(text) :] if read.startswith(text) else ""


def _is_complete(data: bytes) -> bool:
    """Return whether bytes do not end within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data[-3:])
    return not decoder.getstate()[0]
