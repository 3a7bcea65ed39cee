"""The 20B tokenizer (GPT-NeoX) of Pile and Raven models, based on the `tokenizers` library."""

import logging
from collections.abc import Iterable
from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.byte_level import unspell
from wkv.tokenizers.interface import bytes_of_ids, text_to_bytes

HUB_NAME = "EleutherAI/gpt-neox-20b"
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"


class PileTokenizer:
    """A byte-level BPE tokenizer that is read from a `tokenizer.json`.

    Attributes:
        name: name of the file, or of the repository on the hub.
        vocab_size: number of ids.
        end_of_text: id of `<|endoftext|>`, which has no bytes.
        file: the tokenizer.json that was read.
    """

    def __init__(self, file: Path | None = None, vocab_size: int = 0) -> None:
        """Read the tokenizer from a file, or (None) from EleutherAI/gpt-neox-20b on the hub.

        `vocab_size` is that of the model, which may have more ids than the tokenizer. The
        additional ids have no bytes.

        Raises:
            TokenizerError: if the file cannot be downloaded or read.
        """
        from tokenizers import Tokenizer

        try:
            self.file = file or Path(_from_the_hub())
            self._tokenizer = Tokenizer.from_file(str(self.file))
        except Exception as error:  # the library raises plain Exception for every cause
            if file is None:
                raise TokenizerError(
                    f"the 20B tokenizer {HUB_NAME} could not be downloaded; give its file: "
                    "--tokenizer 20B_tokenizer.json, or in Python tokenizer='20B_tokenizer.json'"
                ) from error
            raise TokenizerError(
                f"{file}: the tokenizers library cannot read this file ({error}); expected a "
                "tokenizer.json"
            ) from error
        self.name = HUB_NAME if file is None else file.name
        self.end_of_text: int | None = self._tokenizer.token_to_id(END_OF_TEXT)
        self._bytes_of_id = self._table(vocab_size)
        self.vocab_size = len(self._bytes_of_id)

    @property
    def padding_id(self) -> int:
        """The id of `<|padding|>`, or 0 if the file does not contain this token."""
        return self._tokenizer.token_to_id(PADDING) or 0

    def encode(self, text: str | bytes) -> list[int]:
        """Return the ids of a text. Bytes must be UTF-8, because this tokenizer reads characters.

        Raises:
            TokenizerError: if bytes are not UTF-8, or the text has a lone surrogate.
        """
        try:
            readable = text_to_bytes(text).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"byte {error.object[error.start]} at position {error.start} is not UTF-8, which "
                "the 20B tokenizer needs; give UTF-8 text"
            ) from error
        ids: list[int] = self._tokenizer.encode(readable, add_special_tokens=False).ids
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; `<|endoftext|>` and ids without a token have no bytes."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def _table(self, vocab_size: int) -> list[bytes]:
        """Return the bytes of each id. BPE tokens represent bytes by printable characters."""
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        table = [b""] * max(vocab_size, max(vocabulary.values()) + 1)
        for token, index in vocabulary.items():
            if token in added:
                table[index] = b"" if index == self.end_of_text else token.encode("utf-8")
            else:
                table[index] = unspell(token)
        return table


def _from_the_hub() -> str:
    """Return the path of the hub's tokenizer.json, which is downloaded if it is not cached."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(HUB_NAME, "tokenizer.json")
    if isinstance(cached, str):
        return cached
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    # The library would log each retry. The caller reports the final error instead.
    logger.setLevel(logging.CRITICAL)
    try:
        return hf_hub_download(HUB_NAME, "tokenizer.json")
    finally:
        logger.setLevel(level)
