"""Select the tokenizer of a model, by name, by file or by vocabulary size."""

from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.interface import Tokenizer
from wkv.tokenizers.pile import PileTokenizer
from wkv.tokenizers.plain_bytes import BYTES, BytesTokenizer
from wkv.tokenizers.tokenizer_json import read_tokenizer_json
from wkv.tokenizers.world import VOCABULARY_FILE, WORLD_VOCAB_SIZE, WorldTokenizer

PILE_VOCAB_SIZES = range(50254, 50433)
"""Vocabulary sizes of Pile and Raven models: 50277 ids, which some models pad further."""

IN_DIRECTORIES = ("model.safetensors", "pytorch_model.bin")
"""Prefixes of the checkpoint file names of a Hugging Face directory.

A tokenizer in the same directory belongs to such a checkpoint.
"""

TOKENIZER_FILES = ("tokenizer.json", VOCABULARY_FILE)

NAMES = ("world", "20b", "bytes")


def open_tokenizer(choice: str | Path | Tokenizer, vocab_size: int = 0) -> Tokenizer:
    """Open a tokenizer by name ("world", "20b", "bytes") or from a file.

    Args:
        choice: a name, a file or a tokenizer object, which is returned unchanged. A file ending
            in `.json` is a tokenizer.json: if it contains a World vocabulary, that is used,
            otherwise the `tokenizers` library reads the file. Any other file is read as a
            vocabulary in World format.
        vocab_size: number of rows of the model's embedding, or 0 without a model.

    Raises:
        TokenizerError: if the choice is not a tokenizer, or has more ids than the model.
    """
    tokenizer = _open(choice, vocab_size)
    if vocab_size and tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"the tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids and the model only "
            f"{vocab_size}; give the tokenizer that the model was trained with"
        )
    return tokenizer


def _open(choice: str | Path | Tokenizer, vocab_size: int) -> Tokenizer:
    """Open a tokenizer as `open_tokenizer` does, without comparing vocabulary sizes."""
    if not isinstance(choice, (str, Path)):
        if not hasattr(choice, "decode_bytes"):
            raise TokenizerError(
                f"{type(choice).__name__} is not a tokenizer: expected a name, a file, or an "
                "object with encode, decode and decode_bytes"
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
            f"{choice} is not a tokenizer: expected one of {', '.join(NAMES)}, "
            "a tokenizer.json, or a vocabulary file in World format"
        )
    if path.suffix == ".json":
        world = read_tokenizer_json(path)
        if world is not None:
            return WorldTokenizer(world.entries, vocab_size or world.vocab_size, path.name)
        return PileTokenizer(path, vocab_size)
    return WorldTokenizer(path, vocab_size or None)


def choose_tokenizer(vocab_size: int, checkpoint: Path | None = None) -> Tokenizer:
    """Select the tokenizer of a checkpoint by its vocabulary size.

    A vocabulary file next to the checkpoint (`NAME.vocab.txt` for `NAME.pth`) or the tokenizer of
    a Hugging Face directory takes precedence.

    Raises:
        TokenizerError: if no tokenizer is known for the vocabulary size.
    """
    own = None if checkpoint is None else tokenizer_beside(checkpoint)
    if own is not None:
        return open_tokenizer(own, vocab_size)
    if vocab_size == WORLD_VOCAB_SIZE:
        return WorldTokenizer()
    if vocab_size in PILE_VOCAB_SIZES:
        return PileTokenizer(vocab_size=vocab_size)
    if vocab_size == BYTES:
        return BytesTokenizer()
    raise TokenizerError(
        f"no tokenizer is known for a vocabulary of {vocab_size} ids (256: bytes, 50277: 20B, "
        "65536: World); select one: --tokenizer NAME_OR_FILE, or tokenizer= in Python"
    )


def vocabulary_beside(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's own vocabulary, `NAME.vocab.txt`, which may not exist."""
    return checkpoint.with_suffix(".vocab.txt")


def tokenizer_beside(checkpoint: Path) -> Path | None:
    """Return the tokenizer file in the folder of a checkpoint, or None if there is none."""
    candidates = [vocabulary_beside(checkpoint)]
    if checkpoint.name.startswith(IN_DIRECTORIES):
        candidates += [checkpoint.with_name(name) for name in TOKENIZER_FILES]
    return next((path for path in candidates if path.is_file()), None)
