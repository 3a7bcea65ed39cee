"""The tokenizer of byte-level models, in which each id is a byte."""

from collections.abc import Iterable

from wkv.tokenizers.interface import bytes_of_ids, text_to_bytes

BYTES = 256


class BytesTokenizer:
    """A tokenizer whose ids are bytes.

    Attributes:
        name: "bytes".
        vocab_size: 256, or the model's if that is larger; the additional ids have no bytes.
        n_tokens: 256, the ids that have bytes.
        end_of_text: None, because all ids are bytes.
    """

    name = "bytes"
    n_tokens = BYTES
    end_of_text: int | None = None

    def __init__(self, vocab_size: int = 0) -> None:
        self.vocab_size = max(BYTES, vocab_size)
        self._bytes_of_id = [bytes([byte]) for byte in range(BYTES)]
        self._bytes_of_id += [b""] * (self.vocab_size - BYTES)

    def encode(self, text: str | bytes) -> list[int]:
        """Return the bytes of a text as ids."""
        return list(text_to_bytes(text))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the ids as bytes; ids from 256 have no bytes."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")
