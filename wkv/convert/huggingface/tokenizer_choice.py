"""Selection of a model's tokenizer, and export of its files to a Hugging Face directory."""

from collections.abc import Callable
from pathlib import Path

from wkv.convert.huggingface.tokenizer_files import (
    chat_template_text,
    write_pile_tokenizer,
    write_tokenizer,
)
from wkv.errors import TokenizerError
from wkv.inference.describe import Description
from wkv.tokenizers import Tokenizer, open_tokenizer
from wkv.tokenizers.pile import PileTokenizer
from wkv.tokenizers.tokenizer_json import padding_id
from wkv.tokenizers.world import WorldTokenizer


def write_vocabulary_of(
    description: Description,
    folder: Path,
    tokenizer: Tokenizer | None,
    notice: Callable[[str], None],
) -> str | None:
    """Write the tokenizer of a model into a folder.

    Args:
        description: the model.
        folder: an existing folder.
        tokenizer: the model's tokenizer, as returned by `tokenizer_of`.
        notice: called with a message if it has no Hugging Face format.

    Returns:
        The tokenizer's name, or None if nothing was written.
    """
    config = description.config
    if isinstance(tokenizer, WorldTokenizer):
        write_tokenizer(
            folder,
            tokenizer.entries,
            vocab_size=config.vocab_size,
            starts_with_end_of_text=config.generation in ("7", "7a"),
        )
    elif isinstance(tokenizer, PileTokenizer):
        is_raven = "raven" in description.checkpoint.path.name.lower()
        template = chat_template_text("raven", with_marks=True) if is_raven else None
        write_pile_tokenizer(folder, tokenizer.file, chat_template=template)
    elif tokenizer is not None:
        notice(f"no tokenizer was written: {tokenizer.name} has no Hugging Face format")
        return None
    return None if tokenizer is None else tokenizer.name


def padding_id_of(tokenizer: Tokenizer | None, vocab_size: int) -> int:
    """Return the id for padding batches, or 0 if no other id is available for it."""
    if isinstance(tokenizer, WorldTokenizer):
        return padding_id(tokenizer.entries, vocab_size)
    if isinstance(tokenizer, PileTokenizer):
        return tokenizer.padding_id
    return 0


def tokenizer_of(
    description: Description, chosen: Path | None, notice: Callable[[str], None]
) -> Tokenizer | None:
    """Return the chosen tokenizer or else that of the model; None, with a notice, if unknown.

    Raises:
        TokenizerError: if the chosen tokenizer cannot be used.
    """
    vocab_size = description.config.vocab_size
    if chosen is not None:
        return open_tokenizer(chosen, vocab_size)
    try:
        return description.tokenizer()
    except TokenizerError as error:
        notice(f"no tokenizer was written: {error}")
        return None
