"""The version, in one place."""

__version__ = "0.1.0"

TESTED_TRANSFORMERS = ("5.0.0", "5.24.0")
"""Oldest and newest version of transformers that the classes in `wkv.hf` are tested with."""
