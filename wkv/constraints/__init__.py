"""Constrained decoding: text that follows a grammar or a JSON schema."""
