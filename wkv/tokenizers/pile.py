"""The 20B tokenizer (GPT-NeoX) of the Pile and Raven models, through the `tokenizers` library."""

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
    """Byte-level BPE from a `tokenizer.json`.

    Attributes:
        name: the file's name, or the hub's.
        vocab_size: number of ids.
        end_of_text: id of `<|endoftext|>`, which stands for no text.
        file: the tokenizer.json that was read.
    """

    def __init__(self, file: Path | None = None, vocab_size: int = 0) -> None:
        """Read the tokenizer from a file, or (None) from the hub's EleutherAI/gpt-neox-20b.

        `vocab_size` is the model's: it has more rows than the tokenizer has ids, the rest stands
        for no text.

        Raises:
            TokenizerError: if it cannot be had; says what to do.
        """
        from tokenizers import Tokenizer

        try:
            self.file = file or Path(_from_the_hub())
            self._tokenizer = Tokenizer.from_file(str(self.file))
        except Exception as error:  # the library raises plain Exception, for all causes alike
            if file is None:
                raise TokenizerError(
                    f"the 20B tokenizer {HUB_NAME} could not be had from the hub; give its file: "
                    "--tokenizer 20B_tokenizer.json, or in Python tokenizer='20B_tokenizer.json'"
                ) from error
            raise TokenizerError(
                f"{file}: this is no tokenizer.json that the tokenizers library can read ({error})"
            ) from error
        self.name = HUB_NAME if file is None else file.name
        self.end_of_text: int | None = self._tokenizer.token_to_id(END_OF_TEXT)
        self._bytes_of_id = self._table(vocab_size)
        self.vocab_size = len(self._bytes_of_id)

    @property
    def padding_id(self) -> int:
        """The id of `<|padding|>`, or 0 in a file without it."""
        return self._tokenizer.token_to_id(PADDING) or 0

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text. Bytes must be UTF-8: this tokenizer works on characters.

        Raises:
            TokenizerError: for bytes that are not UTF-8, and for lone surrogates.
        """
        try:
            readable = text_to_bytes(text).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"byte {error.object[error.start]} at position {error.start} is not UTF-8, and "
                "the 20B tokenizer works on characters; give UTF-8 text"
            ) from error
        ids: list[int] = self._tokenizer.encode(readable, add_special_tokens=False).ids
        return ids

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; `<|endoftext|>` and ids without a token stand for none."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def _table(self, vocab_size: int) -> list[bytes]:
        """The bytes of each id; tokens of the BPE spell bytes with printable characters."""
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
    """The path of the hub's tokenizer.json, from the cache if it was fetched before."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(HUB_NAME, "tokenizer.json")
    if isinstance(cached, str):
        return cached
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its retries are no news; the error at the end is ours
    try:
        return hf_hub_download(HUB_NAME, "tokenizer.json")
    finally:
        logger.setLevel(level)
