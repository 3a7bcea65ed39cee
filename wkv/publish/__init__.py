"""Writes Hugging Face directories: weights, configuration, code, tokenizer, card."""
