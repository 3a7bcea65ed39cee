"""The built-in model: weights, vocabulary, model card and held-out questions, as data.

`recipes/demo_model` in the repository makes all of it.
"""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("demo-rwkv7.safetensors")
VOCABULARY = Path(__file__).with_name("demo-rwkv7.vocab.txt")
QUESTIONS = Path(__file__).with_name("questions.jsonl")
