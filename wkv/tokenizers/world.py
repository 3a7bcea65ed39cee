"""The World tokenizer: greedy longest match over bytes, with a vocabulary of 65529 tokens.

A vocabulary file has one line `id literal length` per token: the literal is a Python string or
bytes literal, and the length is its number of bytes. Id 0, which ends a document, is not in the
file. Any file in this format can be used. The official one is part of the `rwkv` package; nothing
else of that package is used.
"""

import ast
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wkv.errors import InputError, TokenizerError
from wkv.files import atomic_write, read_text
from wkv.tokenizers.interface import bytes_of_ids, text_to_bytes

WORLD_VOCAB_SIZE = 65536
"""Number of rows of the embedding of World models; ids 65530 to 65535 are unused padding."""

MOST_IDS = 2**24
"""Limit of the ids in a vocabulary file; a larger id can only be a mistake."""

VOCABULARY_FILE = "rwkv_vocab_v20230424.txt"


class WorldTokenizer:
    """A tokenizer that finds the longest match over bytes.

    Attributes:
        name: name of the vocabulary, for messages.
        vocab_size: number of ids, including those without bytes.
        end_of_text: 0; None if this id has bytes, as in vocabularies of characters.
        n_tokens: number of ids that have bytes.
        entries: id to bytes, for all ids that have bytes.
    """

    def __init__(
        self,
        vocabulary: Path | Mapping[int, bytes] | None = None,
        vocab_size: int | None = None,
        name: str = "",
    ) -> None:
        """Read a vocabulary file.

        Args:
            vocabulary: the file, or its entries (id to bytes). None selects the official file of
                the `rwkv` package.
            vocab_size: number of valid ids; ids that are not in the file have no bytes. None:
                65536 for the official file, otherwise the largest id plus one.
            name: name for messages; "" selects the name of the file.

        Raises:
            TokenizerError: if the file is missing or a line has the wrong format.
        """
        from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

        source = official_vocabulary() if vocabulary is None else vocabulary
        entries = read_vocabulary(source) if isinstance(source, Path) else dict(source)
        self.entries, self.n_tokens = entries, len(entries)
        self.end_of_text: int | None = None if 0 in entries else 0
        if vocab_size is None:
            vocab_size = WORLD_VOCAB_SIZE if vocabulary is None else 0
        self.name = name or ("world" if vocabulary is None else getattr(source, "name", "entries"))
        self.vocab_size = max(vocab_size, max(entries) + 1)
        self._bytes_of_id = [b""] * self.vocab_size
        for token, text in entries.items():
            self._bytes_of_id[token] = text
        # Bytes are represented by the characters U+0000 to U+00FF. The matcher then returns the
        # string objects that it was built from, so no object is created and the hash is cached.
        self._id_of_text = {text.decode("latin-1"): token for token, text in entries.items()}
        # Leftmost-longest matches that do not overlap are exactly the greedy rule if every single
        # byte is a token, because then no byte is skipped.
        self._matcher = AhoCorasick(
            list(self._id_of_text),
            matchkind=MatchKind.LeftmostLongest,
            implementation=Implementation.ContiguousNFA,  # the fastest to build and to search
            store_patterns=True,
        )
        self._covers_all_bytes = len({text for text in entries.values() if len(text) == 1}) == 256

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the entries; the matcher is built again, because it cannot be copied."""
        return type(self), (self.entries, self.vocab_size, self.name)

    def encode(self, text: str | bytes) -> list[int]:
        """Return the ids of a text.

        Raises:
            TokenizerError: if no token contains one of its bytes (impossible with the official
                vocabulary).
        """
        characters = text_to_bytes(text).decode("latin-1")
        if not self._covers_all_bytes:
            self._check_coverage(characters)
        return list(
            map(self._id_of_text.__getitem__, self._matcher.find_matches_as_strings(characters))
        )

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the bytes of ids; id 0 and the reserved ids have no bytes."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def _check_coverage(self, characters: str) -> None:
        """Raise an error if a byte is not covered by any match."""
        position = 0
        matches = self._matcher.find_matches_as_indexes(characters)
        for _, start, end in [*matches, (0, len(characters), len(characters))]:
            if start != position:
                raise TokenizerError(
                    f"byte {ord(characters[position])} at position {position} is in no token of "
                    "this vocabulary; use a vocabulary that contains all single bytes"
                )
            position = end


def official_vocabulary() -> Path:
    """Return the vocabulary file of the installed `rwkv` package, without importing the package."""
    spec = find_spec("rwkv")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / VOCABULARY_FILE
        if path.is_file():
            return path
    raise TokenizerError(
        f"the World vocabulary {VOCABULARY_FILE}, a part of the `rwkv` package, was not found; "
        "run: pip install rwkv (or give a vocabulary file)"
    )


def read_vocabulary(path: Path) -> dict[int, bytes]:
    """Read a vocabulary file and return its bytes by id. Entries without bytes are left out.

    A file has lines `id literal length`, or one literal in each line: then the number of the line,
    from 0, is the id, and line 0 may be the name of the end of text. The latter is the form of
    `vocab.txt` in Hugging Face directories of RWKV-5 and 6.

    Raises:
        TokenizerError: if a line is wrong; the message names the line and the reason.
    """
    try:
        lines = read_text(path).split("\n")
    except InputError as error:
        raise TokenizerError(f"expected a vocabulary in World format, but {error}") from error
    has_literals_only = len(lines) > 1 and lines[1].startswith(("'", '"', "b'", 'b"'))
    entries: dict[int, bytes] = {}
    for number, line in enumerate(lines):
        if not line.strip() or (has_literals_only and number == 0):
            continue
        try:
            token, text = (number, _literal(line)) if has_literals_only else _entry(line)
        except (ValueError, SyntaxError) as error:
            raise TokenizerError(
                f"{path}, line {number + 1}: {line[:60]!r} does not have the form `id literal "
                f"length` ({error}); give a vocabulary in World format"
            ) from error
        if token in entries:
            raise TokenizerError(f"{path}, line {number + 1}: id {token} occurs twice; remove one")
        if text:
            entries[token] = text
    if not entries:
        raise TokenizerError(f"{path}: the vocabulary is empty; give a file in World format")
    return entries


def _entry(line: str) -> tuple[int, bytes]:
    """Return the id and bytes of a line `id literal length`."""
    token_text, rest = line.split(" ", 1)
    literal, length = rest.rsplit(" ", 1)
    text, token = _literal(literal), int(token_text)
    if len(text) != int(length):
        raise ValueError("the length does not match the literal")
    if not (1 <= token < MOST_IDS or (token == 0 and not text)):
        raise ValueError(f"the id must be 1 to {MOST_IDS - 1}")
    return token, text


def _literal(literal: str) -> bytes:
    """Return the bytes of a Python string or bytes literal."""
    value = ast.literal_eval(literal.strip())
    if not isinstance(value, (str, bytes)):
        raise ValueError("this is not a text")
    return value.encode("utf-8") if isinstance(value, str) else value


def entries_of_json(content: Mapping[str, Any]) -> dict[int, bytes] | None:
    """Return the entries of a vocabulary as JSON, or None if the object is something else.

    The keys are ids, the values texts, or lists of bytes where they are not UTF-8. So web-rwkv
    stores the World vocabulary, and RWKV's early models their characters.
    """
    if not content or not all(key.isdecimal() and len(key) < 9 for key in content):
        return None
    entries = {}
    for key, value in content.items():
        is_list = isinstance(value, list) and all(
            type(byte) is int and 0 <= byte < 256 for byte in value
        )
        if not isinstance(value, str) and not is_list:
            return None
        if value:
            entries[int(key)] = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    return entries or None


def write_vocabulary(entries: Mapping[int, bytes], path: Path) -> None:
    """Write a vocabulary file; bytes that are UTF-8 are written as string literals."""
    lines = []
    for token, text in sorted(entries.items()):
        try:
            literal = repr(text.decode("utf-8"))
        except UnicodeDecodeError:
            literal = repr(text)
        lines.append(f"{token} {literal} {len(text)}\n")
    text = "".join(lines).encode("utf-8")
    atomic_write(path, lambda unfinished: unfinished.write_bytes(text))
