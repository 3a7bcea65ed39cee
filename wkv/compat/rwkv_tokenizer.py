"""`TRIE_TOKENIZER`, the World tokenizer of the `rwkv` package, based on `WorldTokenizer`.

As in the package: the attributes idx2token and token2idx, and all methods. Fixed: ids without bytes
(such as 0) decode to no text, and of a text that is not UTF-8 only the wrong bytes become U+FFFD,
not the whole text. The official vocabulary is found by its name in any folder.

Source: `rwkv` package, rwkv_tokenizer.py.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wkv.compat.unsupported import TOKENIZER, TOKENIZER_CLASS, refuse_attribute, refuse_import
from wkv.tokenizers.world import VOCABULARY_FILE, WORLD_VOCAB_SIZE, WorldTokenizer


class TRIE_TOKENIZER(WorldTokenizer):  # noqa: N801 - the package's name
    """A tokenizer that finds the longest match over bytes.

    Attributes:
        idx2token: id to bytes, for all ids that have bytes.
        token2idx: bytes to id.
    """

    def __init__(self, file_name: str | os.PathLike[str], vocab_size: int = 0) -> None:
        """Read a vocabulary.

        Args:
            file_name: a file in World format. If there is no such file and its name is that of the
                official vocabulary, rwkv_vocab_v20230424.txt, the official one is used.
            vocab_size: number of ids of the model; additional ids decode to no text.

        Raises:
            TokenizerError: if the file is missing or a line has the wrong format.
        """
        path = Path(file_name)
        is_official = path.name == VOCABULARY_FILE
        if is_official:
            vocab_size = max(vocab_size, WORLD_VOCAB_SIZE)
        super().__init__(None if is_official and not path.is_file() else path, vocab_size or None)
        self.idx2token: dict[int, bytes] = dict(self.entries)
        self.token2idx = {text: token for token, text in self.idx2token.items()}

    def encodeBytes(self, src: bytes) -> list[int]:  # noqa: N802 - the package's name
        """Return the ids of bytes."""
        return self.encode(bytes(src))

    def decodeBytes(self, tokens: Iterable[int]) -> bytes:  # noqa: N802 - the package's name
        """Return the bytes of ids."""
        return self.decode_bytes(tokens)

    def printTokens(self, tokens: Iterable[int]) -> None:  # noqa: N802 - the package's name
        """Print the text, or else the bytes, of each id, followed by the id, on one line."""
        for token in tokens:
            data = self.decode_bytes([token])
            try:
                shown: str | bytes = data.decode("utf-8")
            except UnicodeDecodeError:
                shown = data
            print(f"{shown!r}{token}", end=" ")  # noqa: T201 - this is what it is for
        print()  # noqa: T201

    def __getattr__(self, name: str) -> Any:
        refuse_attribute(self, name, [TOKENIZER_CLASS])


def __getattr__(name: str) -> Any:
    refuse_import(__name__, name, TOKENIZER)
