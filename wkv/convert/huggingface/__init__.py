"""Hugging Face directories: weights, configuration, code, tokenizer and model card."""
