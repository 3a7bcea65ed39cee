"""Converter of RWKV-6 and 7 checkpoints to GGUF files for llama.cpp."""
