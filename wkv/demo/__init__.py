"""The built-in demo model: its weights, its vocabulary, and everything that made them."""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("demo-rwkv7.safetensors")
VOCABULARY = Path(__file__).with_name("demo-rwkv7.vocab.txt")
