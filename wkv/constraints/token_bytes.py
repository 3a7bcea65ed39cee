"""Adapter from a tokenizer to llguidance: the bytes of each id, and the id that ends a text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wkv.errors import InputError, MissingExtraError, TokenizerError, install_command
from wkv.tokenizers import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

END_BYTE = b"\x03"
"""Ends a text if the vocabulary has no end-of-text id. JSON never contains it unescaped."""


@dataclass(frozen=True)
class LLGuidanceVocabulary:
    """A model's vocabulary with the interface that llguidance expects.

    Attributes:
        tokens: the bytes of each id; empty for ids that must not be sampled.
        eos_token_id: the id that ends a text.
        tokenizer: encodes texts that the grammar fully determines, as in the model's training.
        bos_token_id: always None; llguidance reads it.
    """

    tokens: list[bytes]
    eos_token_id: int
    tokenizer: Tokenizer
    bos_token_id: int | None = None

    @property
    def special_token_ids(self) -> list[int]:
        """The ids that do not stand for text."""
        return [self.eos_token_id]

    def __call__(self, text: bytes) -> list[int]:
        """Return the ids of a text; empty if the vocabulary lacks one of its bytes."""
        try:
            return [token for token in self.tokenizer.encode(text) if token < len(self.tokens)]
        except TokenizerError:  # an exception cannot pass through llguidance
            return []

    def build(self) -> "LLTokenizer":
        """Return llguidance's tokenizer.

        Raises:
            MissingExtraError: if llguidance is not installed.
        """
        require_llguidance()
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(self), n_vocab=len(self.tokens))


def llguidance_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> LLGuidanceVocabulary:
    """Return the vocabulary of a model with `vocab_size` ids, for llguidance.

    Raises:
        InputError: if no id can end a text, or tokens are not bytes.
    """
    if not getattr(tokenizer, "has_byte_tokens", True):
        raise InputError(
            f"the text of a token of {tokenizer.name} depends on its neighbors, so a text cannot "
            "be constrained; use a model with a World, 20B or byte-level tokenizer"
        )
    known = min(tokenizer.vocab_size, vocab_size)
    tokens = [tokenizer.decode_bytes([token]) for token in range(known)]
    tokens += [b""] * (vocab_size - known)
    end = tokenizer.end_of_text
    if end is None:
        if END_BYTE not in tokens:
            raise InputError(
                f"the tokenizer {tokenizer.name} has no id that ends a text, so a constrained text "
                "cannot end; use a tokenizer with an end of text"
            )
        end = tokens.index(END_BYTE)
    tokens[end] = b""
    return LLGuidanceVocabulary(tokens, end, tokenizer)


def require_llguidance() -> None:
    """Check that llguidance is installed.

    Raises:
        MissingExtraError: if it is not; the message gives the pip command.
    """
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "structured output and forced tool calls need the llguidance package, which is not "
            f"installed; run: {install_command('serve')}"
        ) from error
