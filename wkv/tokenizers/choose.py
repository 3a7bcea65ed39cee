"""Select the tokenizer of a model, by name, by file or by vocabulary size."""

import logging
from pathlib import Path

from wkv.errors import TokenizerError
from wkv.tokenizers.interface import Tokenizer
from wkv.tokenizers.library import LibraryTokenizer, is_byte_level
from wkv.tokenizers.music import ABC_VOCAB_SIZE, AbcTokenizer
from wkv.tokenizers.pile import PileTokenizer
from wkv.tokenizers.plain_bytes import BYTES, BytesTokenizer
from wkv.tokenizers.tokenizer_json import read_tokenizer_json, world_vocabulary
from wkv.tokenizers.world import (
    VOCABULARY_FILE,
    WORLD_VOCAB_SIZE,
    WorldTokenizer,
    entries_of_json,
)

PILE_VOCAB_SIZES = range(50254, 50433)
"""Vocabulary sizes of Pile and Raven models: 50277 ids, which some models pad further."""

MOST_UNUSED_IDS = 1024
"""Models may have a few more ids than their tokenizer, because vocabularies are padded."""

IN_DIRECTORIES = ("model.safetensors", "pytorch_model.bin")
"""Prefixes of the checkpoint file names of a Hugging Face directory.

A tokenizer in the same directory belongs to such a checkpoint.
"""

TOKENIZER_FILES = ("tokenizer.json", VOCABULARY_FILE)

NAMES = ("world", "20b", "bytes", "abc")


def open_tokenizer(choice: str | Path | Tokenizer, vocab_size: int = 0) -> Tokenizer:
    """Open a tokenizer by name ("world", "20b", "bytes", "abc") or from a file.

    A warning is logged if the model has many more ids than the tokenizer.

    Args:
        choice: a name, a file or a tokenizer object, which is returned unchanged. A file ending
            in `.json` is a tokenizer.json: if it contains a World vocabulary, that is used,
            otherwise the `tokenizers` library reads the file. Any other file is read as a
            vocabulary in World format.
        vocab_size: number of rows of the model's embedding, or 0 without a model.

    Raises:
        TokenizerError: if the choice is not a tokenizer, or cannot be that of the model: it has
            more ids, or it is 20B and the model has the size of World.
    """
    tokenizer = _open(choice, vocab_size)
    # A tokenizer object of a program may have nothing but the methods.
    name = getattr(tokenizer, "name", type(tokenizer).__name__)
    n_ids = getattr(tokenizer, "vocab_size", vocab_size)
    problem = size_mismatch(name, n_ids, getattr(tokenizer, "n_tokens", vocab_size), vocab_size)
    if problem is None:
        return tokenizer
    usual = name_for(vocab_size)
    advice = "give the tokenizer that the model was trained with"
    if usual is not None:
        advice = f"models of this size use {usual}: --tokenizer {usual}, or tokenizer={usual!r}"
    problem = f"{problem}; {advice}"
    is_20b = isinstance(tokenizer, PileTokenizer) and tokenizer.n_tokens in PILE_VOCAB_SIZES
    if n_ids > vocab_size or (is_20b and vocab_size == WORLD_VOCAB_SIZE):
        raise TokenizerError(problem)
    logging.getLogger(__name__).warning("%s", problem)
    return tokenizer


def size_mismatch(name: str, n_ids: int, n_tokens: int, vocab_size: int) -> str | None:
    """Return why a tokenizer can hardly be that of a model, or None.

    Args:
        name: of the tokenizer.
        n_ids: number of its ids.
        n_tokens: number of its ids that have a token.
        vocab_size: number of ids of the model, or 0 without a model.
    """
    if not vocab_size:
        return None
    if n_ids > vocab_size:
        found = f"has {n_ids} ids and the model only {vocab_size}"
    elif vocab_size - n_tokens > MOST_UNUSED_IDS:
        found = f"has only {n_tokens} tokens and the model {vocab_size} ids"
    else:
        return None
    return f"the tokenizer {name} {found}, so texts would be misread"


def name_for(vocab_size: int) -> str | None:
    """Return the name of the tokenizer that models of a vocabulary size use, or None."""
    if vocab_size == WORLD_VOCAB_SIZE:
        return "world"
    if vocab_size in PILE_VOCAB_SIZES:
        return "20b"
    return {BYTES: "bytes", ABC_VOCAB_SIZE: "abc"}.get(vocab_size)


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
            if vocab_size == WORLD_VOCAB_SIZE:  # known before the file is downloaded
                raise TokenizerError(
                    f"the tokenizer 20b has 50277 ids and the model {vocab_size}, so texts would "
                    "be misread; models of this size use world: --tokenizer world, or "
                    "tokenizer='world'"
                )
            return PileTokenizer(vocab_size=vocab_size)
        case "bytes":
            return BytesTokenizer(vocab_size)
        case "abc":
            return AbcTokenizer(vocab_size)
    path = Path(choice)
    if not path.is_file():
        raise TokenizerError(
            f"{choice} is not a tokenizer: expected one of {', '.join(NAMES)}, "
            "a tokenizer.json, or a vocabulary file in World format"
        )
    if path.suffix == ".json":
        return _open_json(path, vocab_size)
    return WorldTokenizer(path, vocab_size or None)


def _open_json(path: Path, vocab_size: int) -> Tokenizer:
    """Open a tokenizer.json with the class for its algorithm."""
    content = read_tokenizer_json(path)
    try:
        entries = entries_of_json(content)
        if entries is not None:
            return WorldTokenizer(entries, vocab_size or None, path.name)
        world, byte_level = world_vocabulary(content), is_byte_level(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(
            f"{path}: the file is damaged ({error}); expected a tokenizer.json"
        ) from error
    if world is not None:
        return WorldTokenizer(world.entries, vocab_size or world.vocab_size, path.name)
    return PileTokenizer(path, vocab_size) if byte_level else LibraryTokenizer(path, vocab_size)


def choose_tokenizer(vocab_size: int, checkpoint: Path | None = None) -> Tokenizer:
    """Select the tokenizer of a checkpoint by its vocabulary size.

    A vocabulary file next to the checkpoint (`NAME.vocab.txt` for `NAME.pth`) or the tokenizer of
    a Hugging Face directory takes precedence.

    Raises:
        TokenizerError: if no tokenizer is known for the vocabulary size.
    """
    own = None if checkpoint is None else tokenizer_file_of(checkpoint)
    choice = name_for(vocab_size) if own is None else own
    if choice is None:
        raise TokenizerError(
            f"no tokenizer is known for a vocabulary of {vocab_size} ids (128: abc, 256: bytes, "
            "50277: 20B, 65536: World); select one: --tokenizer NAME_OR_FILE, or tokenizer= in "
            "Python"
        )
    return open_tokenizer(choice, vocab_size)


def vocabulary_file_of(checkpoint: Path) -> Path:
    """Return the path of a checkpoint's own vocabulary, `NAME.vocab.txt`, which may not exist."""
    return checkpoint.with_suffix(".vocab.txt")


def tokenizer_file_of(checkpoint: Path) -> Path | None:
    """Return the tokenizer file in the folder of a checkpoint, or None if there is none."""
    candidates = [vocabulary_file_of(checkpoint)]
    if checkpoint.name.startswith(IN_DIRECTORIES):
        candidates += [checkpoint.with_name(name) for name in TOKENIZER_FILES]
    return next((path for path in candidates if path.is_file()), None)
