"""Converters that write checkpoints in other formats and verify them against the original."""
