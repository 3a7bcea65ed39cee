"""The World tokenizer: greedy longest match over bytes, with a vocabulary file of 65529 entries.

A vocabulary file has a line `id literal length` for each token: the literal is a Python string or
bytes literal, the length counts its bytes. Id 0 is not in the file: it ends a document. Any file
of this form will do; the official one lies in the `rwkv` package, of which nothing else is used.
"""

import ast
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.interface import bytes_of_ids, text_to_bytes

WORLD_VOCAB_SIZE = 65536
"""Rows of the embedding of World models; ids 65530 to 65535 are padding and stand for nothing."""

MOST_IDS = 2**24
"""A larger id in a vocabulary file can only be a mistake."""

VOCABULARY_FILE = "rwkv_vocab_v20230424.txt"


class WorldTokenizer:
    """Greedy longest match over bytes.

    Attributes:
        name: of the vocabulary, for messages.
        vocab_size: number of ids, those without text included.
        end_of_text: 0.
        entries: id to bytes, of the ids that stand for text.
    """

    end_of_text: int | None = 0

    def __init__(
        self,
        vocabulary: Path | Mapping[int, bytes] | None = None,
        vocab_size: int | None = None,
        name: str = "",
    ) -> None:
        """Read a vocabulary file.

        Args:
            vocabulary: the file, or what is in it; None is the official one of the `rwkv` package.
            vocab_size: ids up to this one are valid, those that are not in the file without
                text. None: 65536 for the official file, else the largest id plus one.
            name: for messages; "" is the file's.

        Raises:
            TokenizerError: if the file is missing or a line is not of the form.
        """
        from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

        source = official_vocabulary() if vocabulary is None else vocabulary
        entries = read_vocabulary(source) if isinstance(source, Path) else dict(source)
        self.entries = entries
        if vocab_size is None:
            vocab_size = WORLD_VOCAB_SIZE if vocabulary is None else 0
        self.name = name or ("world" if vocabulary is None else getattr(source, "name", "entries"))
        self.vocab_size = max(vocab_size, max(entries) + 1)
        self._bytes_of_id = [b""] * self.vocab_size
        for token, text in entries.items():
            self._bytes_of_id[token] = text
        # Bytes are spelled as the characters U+0000 to U+00FF: a match then comes back as the
        # string that was put in, which costs no new object and whose hash is known.
        self._id_of_text = {text.decode("latin-1"): token for token, text in entries.items()}
        # All matches are leftmost and longest and do not overlap: exactly the greedy rule, as
        # long as every single byte is a token, so that no byte is ever passed over.
        self._matcher = AhoCorasick(
            list(self._id_of_text),
            matchkind=MatchKind.LeftmostLongest,
            implementation=Implementation.ContiguousNFA,  # fastest to build, and to search text
            store_patterns=True,
        )
        self._covers_all_bytes = len({text for text in entries.values() if len(text) == 1}) == 256

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text.

        Raises:
            TokenizerError: if a byte of it is in no token (never with the official file).
        """
        spelled = text_to_bytes(text).decode("latin-1")
        if not self._covers_all_bytes:
            self._check_coverage(spelled)
        return list(
            map(self._id_of_text.__getitem__, self._matcher.find_matches_as_strings(spelled))
        )

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; id 0 and the reserved ids stand for none."""
        return bytes_of_ids(ids, self._bytes_of_id)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def _check_coverage(self, spelled: str) -> None:
        """Raise if some byte is in no match."""
        position = 0
        matches = self._matcher.find_matches_as_indexes(spelled)
        for _, start, end in [*matches, (0, len(spelled), len(spelled))]:
            if start != position:
                raise TokenizerError(
                    f"byte {ord(spelled[position])} at position {position} is in no token of this "
                    "vocabulary; use a vocabulary that holds all single bytes"
                )
            position = end


def official_vocabulary() -> Path:
    """The vocabulary file inside the installed `rwkv` package, found without importing it."""
    spec = find_spec("rwkv")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / VOCABULARY_FILE
        if path.is_file():
            return path
    raise TokenizerError(
        f"the World vocabulary {VOCABULARY_FILE} was not found, it lies in the `rwkv` package; "
        "run: pip install rwkv (or give a vocabulary file)"
    )


def read_vocabulary(path: Path) -> dict[int, bytes]:
    """Id to bytes of a vocabulary file.

    Raises:
        TokenizerError: names the line that is wrong and how.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: the vocabulary cannot be read ({error})") from error
    entries: dict[int, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            token_text, rest = line.split(" ", 1)
            literal, length = rest.rsplit(" ", 1)
            value = ast.literal_eval(literal)
            text = value.encode("utf-8") if isinstance(value, str) else value
            token = int(token_text)
            if not isinstance(text, bytes) or len(text) != int(length) or not text:
                raise ValueError("the length is wrong")
            if not 1 <= token < MOST_IDS:
                raise ValueError(f"the id must be 1 to {MOST_IDS - 1}")
        except (ValueError, SyntaxError) as error:
            raise TokenizerError(
                f"{path}, line {number}: {line[:60]!r} is not of the form `id literal length` "
                f"({error}); give a vocabulary in World format"
            ) from error
        if token in entries:
            raise TokenizerError(f"{path}, line {number}: id {token} occurs twice")
        entries[token] = text
    if not entries:
        raise TokenizerError(f"{path}: the vocabulary is empty; give a file in World format")
    return entries


def write_vocabulary(entries: Mapping[int, bytes], path: Path) -> None:
    """Write a vocabulary file; the literal is a Python string where the bytes are UTF-8."""
    lines = []
    for token, text in sorted(entries.items()):
        try:
            literal = repr(text.decode("utf-8"))
        except UnicodeDecodeError:
            literal = repr(text)
        lines.append(f"{token} {literal} {len(text)}\n")
    path.write_text("".join(lines), encoding="utf-8", newline="\n")
