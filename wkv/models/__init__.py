"""The networks of all RWKV generations, one file each, and their detection from tensor shapes."""

from wkv.models.detect import GENERATIONS, detect_generation, read_config
from wkv.models.parts import Config

__all__ = ["GENERATIONS", "Config", "detect_generation", "read_config"]
