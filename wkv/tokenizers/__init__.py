"""Text to ids and back: the World vocabulary, the 20B tokenizer, plain bytes; and the choice."""

from wkv.tokenizers.choose import choose_tokenizer, open_tokenizer
from wkv.tokenizers.interface import Tokenizer

__all__ = ["Tokenizer", "choose_tokenizer", "open_tokenizer"]
