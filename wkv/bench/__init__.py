"""Measurement of a model's speed, compared with the limit set by the memory bandwidth.

Decoding a token reads all weights once. So bandwidth / bytes per token is a limit for the tokens
per second of any engine that reads all weights from memory; skipped zeros, or weights in a cache,
allow more. `measure` alternates between model and memory, so that a noisy machine slows both alike.
"""

from wkv.bench.costs import Costs, costs_of
from wkv.bench.drafts import DraftResult, measure_drafts, texts_for
from wkv.bench.inputs import Text, text_for
from wkv.bench.memory_bandwidth import Stream, stream_for
from wkv.bench.rounds import Measured, Result, measure, plan
from wkv.bench.workloads import Task

__all__ = [
    "Costs",
    "DraftResult",
    "Measured",
    "Result",
    "Stream",
    "Task",
    "Text",
    "costs_of",
    "measure",
    "measure_drafts",
    "plan",
    "stream_for",
    "text_for",
    "texts_for",
]
