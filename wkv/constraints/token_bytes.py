"""A tokenizer as llguidance wants it: the bytes of each id, and the id that ends a text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wkv.errors import InputError, MissingExtraError, TokenizerError
from wkv.tokenizers import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

END_BYTE = b"\x03"
"""Ends a text where no id does: "end of text" in ASCII, which JSON never holds unescaped."""


@dataclass(frozen=True)
class Vocabulary:
    """The ids of a model, as llguidance wants them.

    Attributes:
        tokens: the bytes of each id; none for those that may not be drawn.
        eos_token_id: the id that ends a text.
        tokenizer: cuts the texts that a grammar leaves no choice about, as the model knows them.
    """

    tokens: list[bytes]
    eos_token_id: int
    tokenizer: Tokenizer
    bos_token_id: int | None = None

    @property
    def special_token_ids(self) -> list[int]:
        """Ids that are not text."""
        return [self.eos_token_id]

    def __call__(self, text: bytes) -> list[int]:
        """Ids of a text; none where the vocabulary has not all of its bytes."""
        try:
            return [token for token in self.tokenizer.encode(text) if token < len(self.tokens)]
        except TokenizerError:  # an exception would not come through the library
            return []

    def build(self) -> "LLTokenizer":
        """The tokenizer of llguidance.

        Raises:
            MissingExtraError: if llguidance is not installed.
        """
        require_llguidance()
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self), n_vocab=len(self.tokens))


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    """The vocabulary of a model with `vocab_size` ids.

    Raises:
        InputError: if no id can end a text.
    """
    known = min(tokenizer.vocab_size, vocab_size)
    tokens = [tokenizer.decode_bytes([token]) for token in range(known)]
    tokens += [b""] * (vocab_size - known)
    end = tokenizer.end_of_text
    if end is None:
        if END_BYTE not in tokens:
            raise InputError(
                f"the tokenizer {tokenizer.name} has no id that ends a text, so no grammar can end "
                "one; use a tokenizer with an end of text"
            )
        end = tokens.index(END_BYTE)
    tokens[end] = b""
    return Vocabulary(tokens, end, tokenizer)


def require_llguidance() -> None:
    """Do nothing if llguidance is installed.

    Raises:
        MissingExtraError: holds the pip line.
    """
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "structured output and forced tool calls need the llguidance package, which is not "
            "installed; run: pip install 'wkv[serve]'"
        ) from error
