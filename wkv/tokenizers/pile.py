"""The 20B tokenizer (GPT-NeoX) of Pile and Raven models, and other byte-level BPE tokenizers."""

import logging
from collections.abc import Iterable
from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.byte_level import characters_to_bytes
from wkv.tokenizers.interface import bytes_of_ids
from wkv.tokenizers.library import LibraryTokenizer

HUB_NAME = "EleutherAI/gpt-neox-20b"
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"


class PileTokenizer(LibraryTokenizer):
    """A byte-level BPE tokenizer that is read from a `tokenizer.json`.

    Attributes:
        name: name of the file, or of the repository on the hub.
    """

    has_byte_tokens = True

    def __init__(self, file: Path | None = None, vocab_size: int = 0) -> None:
        """Read the tokenizer from a file, or (None) from EleutherAI/gpt-neox-20b on the hub.

        `vocab_size` is that of the model, which may have more ids than the tokenizer. The
        additional ids have no bytes.

        Raises:
            TokenizerError: if the file cannot be downloaded or read.
        """
        super().__init__(_from_the_hub() if file is None else file, vocab_size)
        if file is None:
            self.name = HUB_NAME
        self.byte_ids = frozenset()
        self._bytes_of_id = self._table()

    @property
    def padding_id(self) -> int:
        """The id of `<|padding|>`, or 0 if the file does not contain this token."""
        return self._tokenizer.token_to_id(PADDING) or 0

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; the end of text and ids without a token have no bytes."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def _table(self) -> list[bytes]:
        """Return the bytes of each id. BPE tokens represent bytes by printable characters."""
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        table = [b""] * self.vocab_size
        for token, index in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if token not in added:
                table[index] = _bytes_of(token)
            elif index != self.end_of_text:
                table[index] = token.encode("utf-8")
        return table


def _bytes_of(token: str) -> bytes:
    """Return the bytes of a token; one with other characters stands for itself."""
    try:
        return characters_to_bytes(token)
    except KeyError:
        return token.encode("utf-8")


def _from_the_hub() -> Path:
    """Return the path of the hub's tokenizer.json, which is downloaded if it is not cached.

    Raises:
        TokenizerError: if it cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(HUB_NAME, "tokenizer.json")
    if isinstance(cached, str):
        return Path(cached)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    # The library would log each retry. The caller reports the final error instead.
    logger.setLevel(logging.CRITICAL)
    try:
        return Path(hf_hub_download(HUB_NAME, "tokenizer.json"))
    except Exception as error:  # the library and its network stack have many types
        raise TokenizerError(
            f"the 20B tokenizer {HUB_NAME} could not be downloaded; give its file: "
            "--tokenizer 20B_tokenizer.json, or in Python tokenizer='20B_tokenizer.json'"
        ) from error
    finally:
        logger.setLevel(level)
