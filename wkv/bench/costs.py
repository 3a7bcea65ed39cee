"""The cost of a model, computed from its sizes: bytes read and operations per token."""

import math
from dataclasses import dataclass

from wkv.bench.workloads import Task
from wkv.inference.describe import describe
from wkv.inference.model import TOKENS_AT_ONCE, Model
from wkv.models.parts import is_matrix

LOOKED_UP = ("emb.weight", "s_emb.weight")
"""Suffixes of the names of embedding tables, of which a token reads one row."""


@dataclass(frozen=True)
class Costs:
    """The cost of one token.

    Attributes:
        weight_bytes: bytes of all weights that decoding a token reads if nothing is skipped.
        state_bytes: bytes of the state of one row.
        operations: operations of the matrix products for one token, two per weight. The recurrence
            is not counted; it adds about 1 % if heads have 64 channels.
        tokens_at_once: largest number of tokens, over all rows, in one pass.
    """

    weight_bytes: int
    state_bytes: int
    operations: int
    tokens_at_once: int = TOKENS_AT_ONCE

    def bytes_read(self, task: Task) -> int:
        """Return the bytes that one call of a task reads.

        Weights are read once per pass, and states once per pass and row.
        """
        together = max(1, self.tokens_at_once // task.rows)
        passes = math.ceil(task.tokens / together)
        return passes * (self.weight_bytes + task.rows * self.state_bytes)

    def bytes_per_token(self, task: Task) -> float:
        """Return the bytes that a task reads per token."""
        return self.bytes_read(task) / task.all_tokens

    def operations_per_byte(self, task: Task) -> float:
        """Return the operations per byte read: the horizontal axis of a roofline plot."""
        return self.operations / self.bytes_per_token(task)


def costs_of(model: Model) -> Costs:
    """Return the costs of a loaded model, counted from the shapes of its network."""
    description = describe(model.path)
    weights = sum(
        math.prod(shape)
        for name, shape in description.shapes.items()
        if is_matrix(name, shape) and not name.endswith(LOOKED_UP)
    )
    return Costs(model.weight_bytes, description.state_bytes, 2 * weights, model.tokens_at_once)
