"""The World tokenizer as a tokenizer class of transformers, `RWKVTokenizer`.

It reads the folders that `wkv.convert.huggingface.tokenizer_files` writes, and returns the same ids
as their tokenizer.json, but faster. Folders that it saves can be loaded with and without wkv.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from transformers import AddedToken, PreTrainedTokenizer

from wkv.tokenizers.byte_level import bytes_to_characters, characters_to_bytes
from wkv.tokenizers.tokenizer_json import (
    END_OF_TEXT,
    SPECIAL,
    TOKENIZER_FILE,
    padding_id,
    special_names,
    write_tokenizer_json,
)
from wkv.tokenizers.world import (
    VOCABULARY_FILE,
    WORLD_VOCAB_SIZE,
    WorldTokenizer,
    official_vocabulary,
    read_vocabulary,
    write_vocabulary,
)

CONFIG_FILE = "tokenizer_config.json"

NOT_TO_BE_SAVED = ("backend", "is_local", "local_files_only")
"""Keys that the base class writes about the current process, which would mislead later ones."""


class RWKVTokenizer(PreTrainedTokenizer):
    """A tokenizer that finds the longest match over bytes.

    Encoding adds no special tokens, and decoding keeps all spaces. Tokens are written as in
    tokenizer.json, with one character per byte.
    """

    vocab_files_names: ClassVar = {"vocab_file": VOCABULARY_FILE}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(
        self, vocab_file: str | Path | None = None, vocab_size: int | None = None, **options: Any
    ) -> None:
        """Read a vocabulary file in World format.

        Args:
            vocab_file: the file; None selects the official vocabulary.
            vocab_size: number of rows of the model's embedding. None: 65536 for the official
                file, otherwise the largest id (of tokens and saved special tokens) plus one.
            options: the arguments of `PreTrainedTokenizer`.

        Raises:
            TokenizerError: if the file is missing, damaged, or has more ids than `vocab_size`.
        """
        if vocab_size is None:
            vocab_size = WORLD_VOCAB_SIZE if vocab_file is None else 0
        path = official_vocabulary() if vocab_file is None else Path(vocab_file)
        self._entries = read_vocabulary(path)
        saved: dict[int, AddedToken] = options.pop("added_tokens_decoder", None) or {}
        special_ids = (token for token, name in saved.items() if str(name).startswith(SPECIAL))
        self._rows = vocab_size or max([*self._entries, *special_ids]) + 1
        names = special_names(self._entries, self._rows)
        self._world = WorldTokenizer(self._entries, self._rows)
        self._tokens = [""] * self._rows
        for token, text in self._entries.items():
            self._tokens[token] = bytes_to_characters(text)
        for token, name in names.items():
            self._tokens[token] = name
        self._id_of_token = {text: token for token, text in enumerate(self._tokens)}
        options.setdefault("bos_token", END_OF_TEXT)
        options.setdefault("eos_token", END_OF_TEXT)
        options.setdefault("pad_token", names[padding_id(self._entries, self._rows)])
        options.setdefault("clean_up_tokenization_spaces", False)
        special = {
            token: AddedToken(name, normalized=False, special=True) for token, name in names.items()
        }
        super().__init__(added_tokens_decoder={**special, **saved}, **options)
        self.special_tokens_pattern = "none"  # transformers 5.0 adds CLS and SEP by default

    @property
    def vocab_size(self) -> int:
        """The number of ids, without tokens that were added later."""
        return self._rows

    def get_vocab(self) -> dict[str, int]:
        """Return the ids of all tokens, including tokens that were added later."""
        return {**self._id_of_token, **self._added_tokens_encoder}

    def tokenize(self, text: str, **options: Any) -> list[str]:
        """Split a text into tokens. A text without names of special tokens takes a faster path."""
        if any(name in text for name in self._added_tokens_encoder):
            tokens: list[str] = super().tokenize(text, **options)
            return tokens
        return self._tokenize(text)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(map(self._tokens.__getitem__, self._world.encode(text)))

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """Return the ids of tokens, or the id of one token."""
        if not isinstance(tokens, str):
            try:
                return list(map(self._id_of_token.__getitem__, tokens))
            except KeyError:  # a token that was added later
                pass
        ids: int | list[int] = super().convert_tokens_to_ids(tokens)
        return ids

    def _convert_token_to_id(self, token: str) -> int | None:
        return self._id_of_token.get(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens; bytes that are not UTF-8 become U+FFFD."""
        added = self._added_tokens_encoder
        pieces = (
            token.encode() if token in added else characters_to_bytes(token) for token in tokens
        )
        return b"".join(pieces).decode("utf-8", "replace")

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """Return the text of ids, with the names of special tokens unless they are skipped."""
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        added: dict[int, AddedToken] = self._added_tokens_decoder
        pieces = []
        for token in map(int, ids):
            if token not in added:
                pieces.append(self._world.decode_bytes([token]))
            elif not (skip_special_tokens and added[token].special):
                pieces.append(added[token].content.encode())
        return b"".join(pieces).decode("utf-8", "replace")

    def _save_pretrained(
        self, save_directory: str | Path, file_names: tuple[str, ...], **options: Any
    ) -> tuple[str, ...]:
        """Save tokenizer.json too, and set the tokenizer class to one that works without wkv."""
        folder = Path(save_directory)
        configuration = folder / CONFIG_FILE
        content = json.loads(configuration.read_text(encoding="utf-8"))
        content = {key: value for key, value in content.items() if key not in NOT_TO_BE_SAVED}
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
        text = json.dumps(content, indent=2, ensure_ascii=False)
        configuration.write_text(text + "\n", encoding="utf-8")
        write_tokenizer_json(folder, self._entries, special_names(self._entries, self._rows))
        names: tuple[str, ...] = super()._save_pretrained(save_directory, file_names, **options)
        return (*names, str(folder / TOKENIZER_FILE))

    def save_vocabulary(
        self, save_directory: str | Path, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the vocabulary file in World format, and return its path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / (prefix + VOCABULARY_FILE)
        write_vocabulary(self._entries, path)
        return (str(path),)
