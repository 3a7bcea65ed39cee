"""Opens files of tensors without reading the tensors themselves.

Tensors are memory-mapped: a tensor's bytes are read when it is used. Nothing in a file is ever
executed. This room has no idea what the tensors mean.
"""

from wkv.checkpoint.open import open_checkpoint
from wkv.checkpoint.tensors import FLOATS, Checkpoint

__all__ = ["FLOATS", "Checkpoint", "open_checkpoint"]
