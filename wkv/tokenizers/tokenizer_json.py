"""The World vocabulary as a `tokenizer.json`, the file that transformers reads.

The `tokenizers` library has no longest match over bytes, but a file can spell it out: bytes become
characters, a regular expression that holds the vocabulary as a tree cuts the longest token at each
place, and every piece is a whole token. Read back, the entries give a `WorldTokenizer`, which is
faster.

Special tokens. Id 0 begins and ends a text; the last id without a token pads. The name of id 0 must
not occur in what people write, because transformers reads the name as id 0 wherever it stands:
training scripts append `eos_token` to a text, chat templates print `bos_token`. So it is not
"<|endoftext|>", which web pages quote, but the name that Hugging Face folders of RWKV know already.
Where even this name must be read as plain text, as the `rwkv` package does:
`tokenizer(text, split_special_tokens=True)`. Our chat template breaks it inside of messages. Ids
without a token have a name each, so that `len` of the tokenizer is the number of rows of the
embedding.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wkv.errors import TokenizerError
from wkv.tokenizers.byte_level import character_of_byte, spell, unspell
from wkv.tokenizers.trie import longest_match_pattern

SPECIAL = "<|rwkv_tokenizer_"
"""What every special token's name begins with; the chat template looks for it."""

END_OF_TEXT = f"{SPECIAL}end_of_text|>"
"""Name of id 0."""

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True)
class WorldVocabulary:
    """What a file holds.

    Attributes:
        entries: id to bytes. Ids that stand for no text (the end of text, reserved ids) are left
            out, as they are in a vocabulary file.
        vocab_size: number of ids, those included.
    """

    entries: dict[int, bytes]
    vocab_size: int


def read_tokenizer_json(path: Path) -> WorldVocabulary | None:
    """The vocabulary of a file whose rule is longest match, None for a file with another rule.

    Raises:
        TokenizerError: if the file cannot be read as JSON.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path}: this is no tokenizer.json ({error})") from error
    if not isinstance(content, dict) or not _is_longest_match(content):
        return None
    without_text = {token["id"] for token in content.get("added_tokens", [])}
    vocabulary: dict[str, int] = content["model"]["vocab"]
    try:
        entries = {
            token: unspell(spelled)
            for spelled, token in vocabulary.items()
            if token not in without_text
        }
    except KeyError:
        return None
    return WorldVocabulary(entries, max([*entries, *without_text]) + 1)


def _is_longest_match(content: dict[str, Any]) -> bool:
    """Whether every piece is a whole token, and the pattern that cuts the pieces holds all tokens.

    A tree of tokens has at least a character for each of them, so a short pattern cannot be one.
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
    """A name for every id that stands for no text: id 0, and those that are reserved.

    Raises:
        TokenizerError: if the vocabulary has more ids than the model.
    """
    if max(entries, default=0) >= vocab_size:
        raise TokenizerError(
            f"the vocabulary has ids up to {max(entries)} and the model only {vocab_size}; give "
            "the vocabulary that the model was trained with, or its vocab_size"
        )
    reserved = (token for token in range(1, vocab_size) if token not in entries)
    return {0: END_OF_TEXT} | {token: f"{SPECIAL}reserved_{token}|>" for token in reserved}


def padding_id(entries: Mapping[int, bytes], vocab_size: int) -> int:
    """The id that pads: the last one that stands for no text, or 0 if every id stands for some.

    Training leaves padding out of the loss, so where id 0 pads, a model cannot learn to end.
    """
    return max(special_names(entries, vocab_size))


def special_token(name: str) -> dict[str, Any]:
    """A special token, as tokenizer.json and tokenizer_config.json write it."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": name, **flags, "special": True}


def write_tokenizer_json(
    folder: Path, entries: Mapping[int, bytes], names: Mapping[int, str]
) -> None:
    """Write tokenizer.json alone; `names` are those of `special_names`."""
    content = json.dumps(_longest_match_tokenizer(entries, names), ensure_ascii=False)
    (folder / TOKENIZER_FILE).write_text(content + "\n", encoding="utf-8", newline="\n")


def _longest_match_tokenizer(
    entries: Mapping[int, bytes], names: Mapping[int, str]
) -> dict[str, Any]:
    """The content of tokenizer.json.

    A byte that is in no token is left over by the pattern. BPE would drop it in silence, so it
    stands only for vocabularies of all bytes; for others WordLevel, whose word for the unknown is
    missing, raises.
    """
    spelled = {token: spell(text) for token, text in entries.items()}
    by_id = sorted((spelled | dict(names)).items())
    vocabulary = {text: token for token, text in by_id}
    if set(character_of_byte()) <= vocabulary.keys():
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
        "pattern": {"Regex": longest_match_pattern(spelled.values())},
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
