"""The tokenizer of byte-level models: an id is a byte."""

from collections.abc import Iterable

from wkv.tokenizers.interface import bytes_of_ids, text_to_bytes

BYTES = 256


class BytesTokenizer:
    """Id = byte; no id ends a text.

    Attributes:
        name: "bytes".
        vocab_size: 256, or the model's if that is more; further ids stand for no text.
        end_of_text: None, all ids are bytes.
    """

    name = "bytes"
    end_of_text: int | None = None

    def __init__(self, vocab_size: int = 0) -> None:
        self.vocab_size = max(BYTES, vocab_size)
        self._bytes_of_id = [bytes([byte]) for byte in range(BYTES)]
        self._bytes_of_id += [b""] * (self.vocab_size - BYTES)

    def encode(self, text: str | bytes) -> list[int]:
        """The bytes of a text."""
        return list(text_to_bytes(text))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids are."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")
