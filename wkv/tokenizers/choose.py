"""Which tokenizer belongs to a model."""

from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.interface import Tokenizer
from wkv.tokenizers.pile import PileTokenizer
from wkv.tokenizers.plain_bytes import BYTES, BytesTokenizer
from wkv.tokenizers.tokenizer_json import read_tokenizer_json
from wkv.tokenizers.world import VOCABULARY_FILE, WORLD_VOCAB_SIZE, WorldTokenizer

PILE_VOCAB_SIZES = range(50254, 50433)
"""Rows of the embedding of Pile and Raven models: 50277, or padded to a rounder number."""

IN_DIRECTORIES = ("model.safetensors", "pytorch_model.bin")
"""How the checkpoint of a Hugging Face directory begins; a tokenizer beside it is its own."""

TOKENIZER_FILES = ("tokenizer.json", VOCABULARY_FILE)

NAMES = ("world", "20b", "bytes")


def open_tokenizer(choice: str | Path | Tokenizer, vocab_size: int = 0) -> Tokenizer:
    """The tokenizer of a name ("world", "20b", "bytes") or a file; a tokenizer is itself.

    Args:
        choice: a file ending in `.json` is a tokenizer.json, whose World vocabulary is used if
            it has one and which the tokenizers library reads if not; any other is a vocabulary in
            World format.
        vocab_size: rows of the model's embedding, where there is a model.

    Raises:
        TokenizerError: if it is none of these, or has more ids than the model.
    """
    tokenizer = _open(choice, vocab_size)
    if vocab_size and tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"the tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids and the model only "
            f"{vocab_size}; give the tokenizer that the model was trained with"
        )
    return tokenizer


def _open(choice: str | Path | Tokenizer, vocab_size: int) -> Tokenizer:
    """`open_tokenizer` without the comparison of sizes."""
    if not isinstance(choice, (str, Path)):
        if not hasattr(choice, "decode_bytes"):
            raise TokenizerError(
                f"a {type(choice).__name__} is no tokenizer: expected a name, a file, or an object "
                "with encode, decode and decode_bytes"
            )
        return choice
    match str(choice).lower():
        case "world":
            return WorldTokenizer(vocab_size=vocab_size or None)
        case "20b":
            return PileTokenizer(vocab_size=vocab_size)
        case "bytes":
            return BytesTokenizer(vocab_size)
    path = Path(choice)
    if not path.is_file():
        raise TokenizerError(
            f"{choice} is no tokenizer: expected one of {', '.join(NAMES)}, "
            "a tokenizer.json, or a vocabulary file in World format"
        )
    if path.suffix == ".json":
        world = read_tokenizer_json(path)
        if world is not None:
            return WorldTokenizer(world.entries, vocab_size or world.vocab_size, path.name)
        return PileTokenizer(path, vocab_size)
    return WorldTokenizer(path, vocab_size or None)


def choose_tokenizer(vocab_size: int, checkpoint: Path | None = None) -> Tokenizer:
    """The tokenizer that a checkpoint's vocabulary size tells.

    A vocabulary file beside the checkpoint, `NAME.vocab.txt` for `NAME.pth`, comes first, and so
    does the tokenizer of a Hugging Face directory.

    Raises:
        TokenizerError: if no tokenizer is known for the size.
    """
    beside = None if checkpoint is None else tokenizer_beside(checkpoint)
    if beside is not None:
        return open_tokenizer(beside, vocab_size)
    if vocab_size == WORLD_VOCAB_SIZE:
        return WorldTokenizer()
    if vocab_size in PILE_VOCAB_SIZES:
        return PileTokenizer(vocab_size=vocab_size)
    if vocab_size == BYTES:
        return BytesTokenizer()
    raise TokenizerError(
        f"no tokenizer is known for a vocabulary of {vocab_size} ids (256 are bytes, 50277 the 20B "
        "tokenizer, 65536 World); name one: --tokenizer NAME_OR_FILE, or tokenizer= in Python"
    )


def vocabulary_beside(checkpoint: Path) -> Path:
    """Where the vocabulary of a checkpoint lies if it has its own: `NAME.vocab.txt`."""
    return checkpoint.with_suffix(".vocab.txt")


def tokenizer_beside(checkpoint: Path) -> Path | None:
    """The tokenizer file that belongs to a checkpoint, if there is one in its folder."""
    candidates = [vocabulary_beside(checkpoint)]
    if checkpoint.name.startswith(IN_DIRECTORIES):
        candidates += [checkpoint.with_name(name) for name in TOKENIZER_FILES]
    return next((path for path in candidates if path.is_file()), None)
