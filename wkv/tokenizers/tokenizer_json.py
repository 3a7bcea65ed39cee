"""Read and write a World vocabulary as `tokenizer.json`, the file format that transformers reads.

The `tokenizers` library has no greedy longest match over bytes, but its file format can express it:
bytes are mapped to characters, a regular expression that contains the vocabulary as a tree splits
off the longest token at each position, and every piece is a complete token. Files of this form can
be read back as a `WorldTokenizer`, which is faster.

Special tokens: id 0 begins and ends a text; the last id without bytes is used for padding. If all
other ids have bytes, padding uses the token of a byte that no UTF-8 text contains, such as 0xFF,
and this token has a special name too: `<|rwkv_tokenizer_byte_255|>`. The name
of id 0 must not occur in ordinary text, because transformers replaces the name by id 0 wherever it
occurs: training scripts append `eos_token` to a text, and chat templates print `bos_token`. For
this reason the name is not "<|endoftext|>", which web pages quote, but the name that existing
Hugging Face directories of RWKV use. To encode even this name as plain text, as the `rwkv` package
does, call `tokenizer(text, split_special_tokens=True)`. Our chat template breaks the name up inside
messages. Every id without bytes has a name of its own, so that `len(tokenizer)` is the number of
rows of the embedding.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wkv.errors import InputError, TokenizerError
from wkv.files import read_text
from wkv.tokenizers.byte_level import (
    bytes_to_characters,
    character_of_byte,
    characters_to_bytes,
)
from wkv.tokenizers.trie import longest_match_pattern

SPECIAL = "<|rwkv_tokenizer_"
"""Prefix of every special token's name; the chat template searches messages for it."""

END_OF_TEXT = f"{SPECIAL}end_of_text|>"
"""The name of id 0."""

TOKENIZER_FILE = "tokenizer.json"

BYTE = f"{SPECIAL}byte_"
"""Prefix of the name of a token that is used for padding although it has a byte."""

NO_TEXT = [bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))]
"""The bytes that no UTF-8 text contains (RFC 3629), so that no text is encoded to their tokens."""


@dataclass(frozen=True)
class WorldVocabulary:
    """The World vocabulary that a tokenizer.json contains.

    Attributes:
        entries: id to bytes. As in a vocabulary file, ids without bytes (the end of text and
            reserved ids) are omitted.
        vocab_size: number of ids, including those without bytes.
    """

    entries: dict[int, bytes]
    vocab_size: int


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """Read a tokenizer.json.

    Raises:
        TokenizerError: if the file cannot be read, or is not a JSON object.
    """
    try:
        content = json.loads(read_text(path))
    except InputError as error:
        raise TokenizerError(f"expected a tokenizer.json, but {error}") from error
    except ValueError as error:
        raise TokenizerError(
            f"{path}: the file is not JSON ({error}); expected a tokenizer.json"
        ) from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: the file is not a JSON object; expected a tokenizer.json")
    return content


def world_vocabulary(content: dict[str, Any]) -> WorldVocabulary | None:
    """Return the vocabulary of a longest-match file, or None if it uses another algorithm.

    `content` is the result of `read_tokenizer_json`.
    """
    if not _is_longest_match(content):
        return None
    special = {token["id"]: str(token["content"]) for token in content.get("added_tokens", [])}
    vocabulary: dict[str, int] = content["model"]["vocab"]
    try:
        entries = {
            token: characters_to_bytes(characters)
            for characters, token in vocabulary.items()
            if token not in special
        }
    except KeyError:
        return None
    for token, name in special.items():
        if (number := re.fullmatch(re.escape(BYTE) + r"(\d+)\|>", name)) and int(number[1]) < 256:
            entries[token] = bytes([int(number[1])])
    return WorldVocabulary(entries, max([*entries, *special]) + 1)


def _is_longest_match(content: dict[str, Any]) -> bool:
    """Check that every piece is a complete token and that the pattern can contain all tokens.

    A tree of tokens has at least one character per token, so a shorter pattern is not such a tree.
    """
    model, steps = content.get("model") or {}, content.get("pre_tokenizer") or {}
    vocabulary = model.get("vocab")
    whole_tokens = model.get("type") == "WordLevel" or (
        model.get("type") == "BPE" and model.get("merges") == [] and model.get("ignore_merges")
    )
    if not whole_tokens or not vocabulary or content.get("normalizer") is not None:
        return False
    match steps.get("pretokenizers"):
        case [
            {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"},
        ]:
            return len(pattern) + len(content.get("added_tokens", [])) >= len(vocabulary)
    return False


def special_names(entries: Mapping[int, bytes], vocab_size: int) -> dict[int, str]:
    """Return a name for every special token: id 0, the reserved ids, and the token for padding.

    If there are no reserved ids, padding uses the last token of a byte in NO_TEXT.

    Raises:
        TokenizerError: if the vocabulary has more ids than the model.
    """
    if max(entries, default=0) >= vocab_size:
        raise TokenizerError(
            f"the vocabulary has ids up to {max(entries)} and the model only {vocab_size}; give "
            "the vocabulary that the model was trained with, or its vocab_size"
        )
    missing = (token for token in range(1, vocab_size) if token not in entries)
    reserved = {token: f"{SPECIAL}reserved_{token}|>" for token in missing}
    if not reserved:
        unused = {token: text[0] for token, text in entries.items() if text in NO_TEXT}
        reserved = {token: f"{BYTE}{unused[token]}|>" for token in sorted(unused)[-1:]}
    return {0: END_OF_TEXT} | reserved


def padding_id(entries: Mapping[int, bytes], vocab_size: int) -> int:
    """Return the padding id: the last id of `special_names`.

    Training excludes padding from the loss, so a model whose padding is id 0 cannot learn to end
    a text. For this reason id 0 is the last choice: it is used if every other id has bytes that
    occur in texts.
    """
    return max(special_names(entries, vocab_size))


def special_token(name: str) -> dict[str, Any]:
    """Return the description of a special token for tokenizer.json and tokenizer_config.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": name, **flags, "special": True}


def write_tokenizer_json(
    folder: Path, entries: Mapping[int, bytes], names: Mapping[int, str]
) -> None:
    """Write the file tokenizer.json; `names` is the result of `special_names`."""
    content = json.dumps(_longest_match_tokenizer(entries, names), ensure_ascii=False)
    (folder / TOKENIZER_FILE).write_text(content + "\n", encoding="utf-8", newline="\n")


def _longest_match_tokenizer(
    entries: Mapping[int, bytes], names: Mapping[int, str]
) -> dict[str, Any]:
    """Return the content of tokenizer.json.

    A byte that no token contains is not matched by the pattern, and BPE would drop it silently.
    BPE is therefore used only if every single byte is a token. Otherwise the model is WordLevel
    without an unknown token, which raises an error for such a byte.
    """
    characters = {token: bytes_to_characters(text) for token, text in entries.items()}
    by_id = sorted((characters | dict(names)).items())
    vocabulary = {text: token for token, text in by_id}
    if set(character_of_byte()) <= set(characters.values()):
        model = {"type": "BPE", "ignore_merges": True, "vocab": vocabulary, "merges": []}
    else:
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": ""}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    cut = {
        "type": "Split",
        "pattern": {"Regex": longest_match_pattern(characters.values())},
        "behavior": "Isolated",
        "invert": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, **special_token(name)} for token, name in names.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [byte_level, cut]},
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }
