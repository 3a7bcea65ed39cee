"""Which tokenizer belongs to a model."""

from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.interface import Tokenizer
from wkv.tokenizers.pile import PileTokenizer
from wkv.tokenizers.plain_bytes import BytesTokenizer
from wkv.tokenizers.world import WORLD_VOCAB_SIZE, WorldTokenizer

PILE_VOCAB_SIZES = range(50254, 50433)
"""Rows of the embedding of Pile and Raven models: 50277, or padded to a rounder number."""

NAMES = ("world", "20b", "bytes")


def open_tokenizer(name_or_file: str | Path, vocab_size: int = 0) -> Tokenizer:
    """The tokenizer of a name ("world", "20b", "bytes") or a file.

    Args:
        name_or_file: a file ending in `.json` is read by the tokenizers library, any other as a
            vocabulary in World format.
        vocab_size: rows of the model's embedding, where there is a model.

    Raises:
        TokenizerError: if it is neither.
    """
    match str(name_or_file).lower():
        case "world":
            return WorldTokenizer(vocab_size=vocab_size or None)
        case "20b":
            return PileTokenizer(vocab_size=vocab_size)
        case "bytes":
            return BytesTokenizer()
    path = Path(name_or_file)
    if not path.is_file():
        raise TokenizerError(
            f"{name_or_file} is no tokenizer: expected one of {', '.join(NAMES)}, "
            "a tokenizer.json, or a vocabulary file in World format"
        )
    if path.suffix == ".json":
        return PileTokenizer(path, vocab_size)
    return WorldTokenizer(path, vocab_size or None)


def choose_tokenizer(vocab_size: int, checkpoint: Path | None = None) -> Tokenizer:
    """The tokenizer that a checkpoint's vocabulary size tells.

    A vocabulary file beside the checkpoint, `NAME.vocab.txt` for `NAME.pth`, comes first.

    Raises:
        TokenizerError: if no tokenizer is known for the size.
    """
    if checkpoint is not None:
        beside = checkpoint.with_suffix(".vocab.txt")
        if beside.is_file():
            return WorldTokenizer(beside, vocab_size)
    if vocab_size == WORLD_VOCAB_SIZE:
        return WorldTokenizer()
    if vocab_size in PILE_VOCAB_SIZES:
        return PileTokenizer(vocab_size=vocab_size)
    if vocab_size == BytesTokenizer.vocab_size:
        return BytesTokenizer()
    raise TokenizerError(
        f"no tokenizer is known for a vocabulary of {vocab_size} ids (256 are bytes, 50277 the 20B "
        "tokenizer, 65536 World); name one: --tokenizer NAME_OR_FILE, or tokenizer= in Python"
    )
