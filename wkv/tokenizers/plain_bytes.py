"""The tokenizer of byte-level models: an id is a byte."""

from collections.abc import Iterable

from wkv.errors import TokenizerError
from wkv.tokenizers.interface import text_to_bytes


class BytesTokenizer:
    """Id = byte; no id ends a text.

    Attributes:
        name: "bytes".
        vocab_size: 256.
        end_of_text: None, all ids are bytes.
    """

    name = "bytes"
    vocab_size = 256
    end_of_text: int | None = None

    def encode(self, text: str | bytes) -> list[int]:
        """The bytes of a text."""
        return list(text_to_bytes(text))

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids are."""
        ids = list(ids)
        try:
            return bytes(ids)
        except ValueError as error:
            wrong = next(token for token in ids if not 0 <= token < 256)
            raise TokenizerError(f"id {wrong} is no byte, ids are 0 to 255") from error

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")
