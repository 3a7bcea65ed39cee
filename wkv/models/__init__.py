"""The generations of RWKV, one file each, and telling them apart by their tensors alone."""

from wkv.models.detect import GENERATIONS, detect_generation, read_config
from wkv.models.parts import Config

__all__ = ["GENERATIONS", "Config", "detect_generation", "read_config"]
