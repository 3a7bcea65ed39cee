"""The interface of all tokenizers, and decoding of a stream of ids.

Tokens represent bytes. A string is the UTF-8 decoding of these bytes, which may lose information.
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from wkv.errors import TokenizerError


class Tokenizer(Protocol):
    """The interface of a tokenizer, which converts text to ids and ids to text.

    Attributes:
        name: shown in messages and by `wkv info`.
        vocab_size: number of ids; every id is in [0, vocab_size).
        end_of_text: the id that ends a document, or None if the vocabulary has none.
    """

    name: str
    vocab_size: int
    end_of_text: int | None

    def encode(self, text: str | bytes) -> list[int]:
        """Return the ids of a text."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; reserved ids and the end of text have no bytes."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        ...


def text_to_bytes(text: str | bytes) -> bytes:
    """Encode a text as UTF-8; bytes are returned unchanged.

    Raises:
        TokenizerError: if the argument is neither str nor bytes, or contains a lone surrogate,
            which has no UTF-8 form.
    """
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str):
        raise TokenizerError(f"text must be str or bytes, not {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate (U+{ord(text[error.start]):04X}) at position "
            f"{error.start}, which is not a character; remove it, or pass bytes instead"
        ) from error


def bytes_of_ids(ids: Iterable[int], table: Sequence[bytes]) -> bytes:
    """Join the bytes that a table contains for each id.

    Raises:
        TokenizerError: if an id is outside of the table; the message names the id.
    """
    pieces = []
    for token in ids:
        if not 0 <= token < len(table):
            raise TokenizerError(
                f"id {token} is not in the vocabulary; valid ids are 0 to {len(table) - 1}"
            )
        pieces.append(table[token])
    return b"".join(pieces)


class StreamDecoder:
    """A decoder that converts a stream of ids to text incrementally.

    A character that spans several tokens is returned when it is complete. A byte that can neither
    begin nor continue a character becomes U+FFFD at once, so that later text is not delayed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Add a token and return the text that it completes, which may be empty."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        """Return U+FFFD if the stream ends within a character, otherwise an empty string."""
        return self._decoder.decode(b"", final=True)
