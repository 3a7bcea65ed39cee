"""What every tokenizer offers, and decoding piece by piece. Bytes are the truth; str is a view."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from wkv.errors import TokenizerError


class Tokenizer(Protocol):
    """Text to ids and back.

    Attributes:
        name: for messages and `wkv info`.
        vocab_size: every id is in [0, vocab_size).
        end_of_text: the id that ends a document, or None if the vocabulary has none.
    """

    name: str
    vocab_size: int
    end_of_text: int | None

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; reserved ids and the end of text stand for none."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are not UTF-8 become U+FFFD."""
        ...


def text_to_bytes(text: str | bytes) -> bytes:
    """UTF-8 of a text.

    Raises:
        TokenizerError: for anything but text, and for a lone surrogate, which has no UTF-8 form.
    """
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TokenizerError(f"text must be str or bytes, {type(text).__name__} was given")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate (U+{ord(text[error.start]):04X}) at position "
            f"{error.start}, which is no character; remove it, or give the bytes themselves"
        ) from error


def bytes_of_ids(ids: Iterable[int], table: Sequence[bytes]) -> bytes:
    """Join the bytes that a table gives for each id.

    Raises:
        TokenizerError: if an id is outside of the table; names the id.
    """
    pieces = []
    for token in ids:
        if not 0 <= token < len(table):
            raise TokenizerError(
                f"id {token} is not in the vocabulary, ids are 0 to {len(table) - 1}"
            )
        pieces.append(table[token])
    return b"".join(pieces)


class StreamDecoder:
    """Turns ids into text as they come.

    A character that spans tokens is held back until it is whole; a byte that cannot begin or go
    on a character becomes U+FFFD at once, so nothing is lost and nothing waits for ever.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """What is left at the end: the beginning of a character, as U+FFFD, or nothing."""
        return self._decoder.decode(b"", final=True)
