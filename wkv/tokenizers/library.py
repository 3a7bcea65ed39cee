"""Tokenizers that the `tokenizers` library reads from a `tokenizer.json`.

`LibraryTokenizer` works with every file of this format, and `wkv.tokenizers.pile` with those whose
tokens are bytes. The text of a token can depend on its neighbors: the library puts a blank between
the words of a WordLevel vocabulary, and joins "##ing" with the token before it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wkv.errors import InputError, TokenizerError
from wkv.files import read_text
from wkv.tokenizers.interface import text_to_bytes, unknown_id

if TYPE_CHECKING:
    import tokenizers

END_OF_TEXT_NAMES = ("<|endoftext|>", "</s>", "<eos>", "<end>")
"""Names of the token that ends a document, in the order in which they are searched."""

BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
"""The name of a token that is a single byte, in vocabularies with byte fallback."""


class LibraryTokenizer:
    """A tokenizer that encodes and decodes with the `tokenizers` library.

    Attributes:
        name: name of the file.
        vocab_size: number of ids.
        end_of_text: id of a name of END_OF_TEXT_NAMES, which has no text; None without one.
        n_tokens: number of ids with a token.
        file: the tokenizer.json that was read.
        has_byte_tokens: whether every token is a sequence of bytes, so that the text of ids is the
            text of their joined bytes.
        byte_ids: ids of tokens such as `<0xE4>`. The text of several of them is known only when
            another token follows.
    """

    has_byte_tokens = False

    def __init__(self, file: Path, vocab_size: int = 0) -> None:
        """Read a tokenizer.json.

        `vocab_size` is that of the model, which may have more ids than the tokenizer. The
        additional ids have no text.

        Raises:
            TokenizerError: if the file cannot be read.
        """
        self.file, self.name = file, file.name
        self._tokenizer = open_library_tokenizer(file)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        ends = (vocabulary[name] for name in END_OF_TEXT_NAMES if name in vocabulary)
        self.end_of_text: int | None = next(ends, None)
        self.n_tokens = len(vocabulary)
        self.vocab_size = max(vocab_size, max(vocabulary.values(), default=-1) + 1)
        self.byte_ids = frozenset(
            token for name, token in vocabulary.items() if BYTE_TOKEN.fullmatch(name)
        )

    def encode(self, text: str | bytes) -> list[int]:
        """Return the ids of a text. Bytes must be UTF-8, because this tokenizer reads characters.

        Raises:
            TokenizerError: if bytes are not UTF-8, the text has a lone surrogate, or the
                vocabulary lacks a word and has no token for unknown words.
        """
        try:
            readable = text_to_bytes(text).decode("utf-8")
        except UnicodeDecodeError as error:
            raise TokenizerError(
                f"byte {error.object[error.start]} at position {error.start} is not UTF-8, which "
                f"the tokenizer {self.name} needs; give UTF-8 text"
            ) from error
        try:
            ids: list[int] = self._tokenizer.encode(readable, add_special_tokens=False).ids
        except Exception as error:  # the library raises plain Exception for every cause
            raise TokenizerError(
                f"the tokenizer {self.name} cannot encode the text ({error}); remove what its "
                "vocabulary does not contain"
            ) from error
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, as the library's decoder of this file writes it.

        The names of special tokens are part of the text, except that of the end of text.

        Raises:
            TokenizerError: if an id is out of range; the message names the id.
        """
        known = list(ids)
        for token in known:
            if not 0 <= token < self.vocab_size:
                raise unknown_id(token, self.vocab_size)
        shown = [token for token in known if token != self.end_of_text]
        text: str = self._tokenizer.decode(shown, skip_special_tokens=False)
        return text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the text of ids as UTF-8."""
        return self.decode(ids).encode("utf-8")


def is_byte_level(content: dict[str, Any]) -> bool:
    """Return whether the tokens of a tokenizer.json are bytes, written as printable characters."""
    decoder, splitter = content.get("decoder"), content.get("pre_tokenizer") or {}
    if decoder is not None:
        return bool(decoder.get("type") == "ByteLevel")
    steps = splitter.get("pretokenizers", [splitter])
    return any(step.get("type") == "ByteLevel" for step in steps)


def open_library_tokenizer(file: Path) -> "tokenizers.Tokenizer":
    """Read a tokenizer.json with the library, and return the library's object.

    Raises:
        TokenizerError: if the file cannot be read.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(read_text(file))
    except InputError as error:
        raise TokenizerError(f"expected a tokenizer.json, but {error}") from error
    except Exception as error:  # the library raises plain Exception for every cause
        raise TokenizerError(
            f"{file}: the tokenizers library cannot read this file ({error}); expected a "
            "tokenizer.json"
        ) from error
