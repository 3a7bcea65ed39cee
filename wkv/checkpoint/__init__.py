"""Open checkpoint files without reading their tensors.

Tensors are memory-mapped: the bytes of a tensor are read when it is used. Code in a file is never
executed. Apart from the translation of names in `layouts`, this package does not know what the
tensors mean.
"""

from wkv.checkpoint.open import open_checkpoint
from wkv.checkpoint.tensors import FLOATS, Checkpoint

__all__ = ["FLOATS", "Checkpoint", "open_checkpoint"]
