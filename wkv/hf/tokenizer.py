"""`RWKVTokenizer`: a tokenizer class of transformers over wkv's own longest match.

It reads the folders that `wkv.convert.huggingface.tokenizer_files` writes, gives the ids that their
tokenizer.json gives, and is faster. What it saves loads with and without wkv.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from transformers import AddedToken, PreTrainedTokenizer

from wkv.tokenizers.byte_level import spell, unspell
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
"""What the base class writes about this process; it would mislead the next one."""


class RWKVTokenizer(PreTrainedTokenizer):
    """Greedy longest match over bytes; encoding adds nothing, decoding loses nothing.

    Tokens are spelled as in tokenizer.json, a character for each byte.
    """

    vocab_files_names: ClassVar = {"vocab_file": VOCABULARY_FILE}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]
    padding_side = "left"

    def __init__(
        self, vocab_file: str | Path | None = None, vocab_size: int | None = None, **options: Any
    ) -> None:
        """Read a vocabulary file in World format; None is the official one.

        Args:
            vocab_file: the file.
            vocab_size: rows of the model's embedding. None: those that the folder's configuration
                names; without one 65536 for the official file, else the largest id plus one.
            options: those of `PreTrainedTokenizer`.

        Raises:
            TokenizerError: if the file is missing, damaged, or has more ids than `vocab_size`.
        """
        if vocab_size is None:
            vocab_size = WORLD_VOCAB_SIZE if vocab_file is None else 0
        path = official_vocabulary() if vocab_file is None else Path(vocab_file)
        self._entries = read_vocabulary(path)
        saved: dict[int, AddedToken] = options.pop("added_tokens_decoder", None) or {}
        named = (token for token, name in saved.items() if str(name).startswith(SPECIAL))
        self._rows = vocab_size or max([*self._entries, *named]) + 1
        names = special_names(self._entries, self._rows)
        self._world = WorldTokenizer(self._entries, self._rows)
        self._tokens = [""] * self._rows
        for token, text in self._entries.items():
            self._tokens[token] = spell(text)
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
        """Number of ids, tokens that were added later left out."""
        return self._rows

    def get_vocab(self) -> dict[str, int]:
        """Token to id."""
        return {**self._id_of_token, **self._added_tokens_encoder}

    def tokenize(self, text: str, **options: Any) -> list[str]:
        """The tokens of a text, at once where no special token's name is in it."""
        if any(name in text for name in self._added_tokens_encoder):
            tokens: list[str] = super().tokenize(text, **options)
            return tokens
        return self._tokenize(text)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(map(self._tokens.__getitem__, self._world.encode(text)))

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """The ids of tokens, or of one token."""
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
        """The text of tokens; bytes that are not UTF-8 become U+FFFD."""
        added = self._added_tokens_encoder
        pieces = (token.encode() if token in added else unspell(token) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of ids, with the names of special tokens unless they are skipped."""
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
        """Save tokenizer.json as well, and name the class that loads without wkv."""
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
        """Write the vocabulary file in World format; returns its path."""
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        path = Path(save_directory) / (prefix + VOCABULARY_FILE)
        write_vocabulary(self._entries, path)
        return (str(path),)
