"""Strategies: on which device each layer of a model runs, and in which dtype."""

from wkv.models.strategy.choose import choose_strategy
from wkv.models.strategy.language import Segment, read_strategy
from wkv.models.strategy.placement import Placement, Strategy, allocate

__all__ = ["Placement", "Segment", "Strategy", "allocate", "choose_strategy", "read_strategy"]
