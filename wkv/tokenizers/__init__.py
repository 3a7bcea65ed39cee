"""Tokenizers of RWKV models: World, 20B (GPT-NeoX) and plain bytes, and how to select one."""

from wkv.tokenizers.choose import choose_tokenizer, open_tokenizer
from wkv.tokenizers.interface import Tokenizer

__all__ = ["Tokenizer", "choose_tokenizer", "open_tokenizer"]
