"""The interface of all tokenizers, and decoding of a stream of ids.

In most vocabularies a token is a sequence of bytes, and a text is the UTF-8 decoding of the joined
bytes, which may lose information. In others, such as a vocabulary of words, the text of a token
depends on its neighbors; `StreamDecoder` supports both.
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from wkv.errors import TokenizerError

CONTEXT = 32
"""Number of ids that are decoded again with a new one, if their text depends on each other."""


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


def unknown_id(token: int, vocab_size: int) -> TokenizerError:
    """Return the error for an id that is not in the vocabulary."""
    return TokenizerError(
        f"id {token} is not in the vocabulary; valid ids are 0 to {vocab_size - 1}"
    )


def bytes_of_ids(ids: Iterable[int], table: Sequence[bytes]) -> bytes:
    """Join the bytes that a table contains for each id.

    Raises:
        TokenizerError: if an id is outside of the table; the message names the id.
    """
    pieces = []
    for token in ids:
        if not 0 <= token < len(table):
            raise unknown_id(token, len(table))
        pieces.append(table[token])
    return b"".join(pieces)


class StreamDecoder:
    """A decoder that converts a stream of ids to text incrementally.

    The pieces, joined, are the text of all ids. A character that spans several tokens is returned
    when it is complete. A byte that can neither begin nor continue a character becomes U+FFFD at
    once, so that later text is not delayed.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Prepare a decoder.

        Args:
            tokenizer: a `Tokenizer`, or any object with a method `decode`.
        """
        by_bytes = hasattr(tokenizer, "decode_bytes")
        self._decoder: _ByteStream | _TextStream
        if getattr(tokenizer, "has_byte_tokens", by_bytes):
            self._decoder = _ByteStream(tokenizer)
        else:
            self._decoder = _TextStream(tokenizer)

    def push(self, token: int) -> str:
        """Add a token and return the text that it completes, which may be empty."""
        return self._decoder.push(token)

    def flush(self) -> str:
        """Return the rest of the text; an incomplete character becomes U+FFFD."""
        return self._decoder.flush()


class _ByteStream:
    """The decoder for tokens that are bytes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class _TextStream:
    """The decoder for tokens whose text depends on their neighbors.

    It decodes the last ids again with each new one, and returns what was added.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_ids: frozenset[int] = getattr(tokenizer, "byte_ids", frozenset())
        self._ids: list[int] = []
        self._returned = ""
        self._ends_with_bytes = False

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        # Byte tokens are decoded together, so none of their characters is certain before another
        # token follows. A token without text, such as the end of text, does not separate them.
        if token in self._byte_ids or self._tokenizer.decode([token]):
            self._ends_with_bytes = token in self._byte_ids
        # A U+FFFD at the end may become a character.
        certain = self._returned if self._ends_with_bytes else text.rstrip("\ufffd")
        if not certain.startswith(self._returned):
            return ""
        piece = certain[len(self._returned) :]
        self._returned = certain
        if certain == text and len(self._ids) > 2 * CONTEXT:
            del self._ids[:-CONTEXT]
            self._returned = self._tokenizer.decode(self._ids)
        return piece

    def flush(self) -> str:
        piece: str = self._tokenizer.decode(self._ids)[len(self._returned) :]
        self._ids, self._returned = [], ""
        return piece
