"""How fast a model runs here, beside how fast the memory of this machine could make it.

To decode a token, all weights are read once; so the memory's bytes per second over the bytes per
token is a limit that no engine passes, unless it need not read all (zeros that are skipped, weights
that stay in a cache). `measure` takes both in turn, so that a noisy machine slows both alike.
"""

from wkv.bench.costs import Costs, costs_of
from wkv.bench.inputs import Text, text_for
from wkv.bench.memory_bandwidth import Stream, stream_for
from wkv.bench.rounds import Measured, Result, measure, plan
from wkv.bench.workloads import Task

__all__ = [
    "Costs",
    "Measured",
    "Result",
    "Stream",
    "Task",
    "Text",
    "costs_of",
    "measure",
    "plan",
    "stream_for",
    "text_for",
]
