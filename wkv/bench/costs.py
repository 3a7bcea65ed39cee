"""What a model costs by its sizes alone: bytes that are read and operations that are done."""

import math
from dataclasses import dataclass

from wkv.bench.workloads import Task
from wkv.inference.load import describe
from wkv.inference.model import TOKENS_AT_ONCE, Model
from wkv.models.parts import is_matrix

LOOKED_UP = ("emb.weight", "s_emb.weight")
"""Endings of the names of tables of which a token reads one row."""


@dataclass(frozen=True)
class Costs:
    """What one token costs.

    Attributes:
        weight_bytes: of all weights that decoding a token reads if nothing is skipped.
        state_bytes: of one row's state.
        operations: of the matrix products for one token, two for each weight. The recurrence is
            left out: it adds about 1 % where heads have 64 channels.
    """

    weight_bytes: int
    state_bytes: int
    operations: int

    def bytes_read(self, task: Task) -> int:
        """Bytes that one call of a task reads: weights once a pass, states once a pass and row."""
        together = max(1, TOKENS_AT_ONCE // task.rows)
        passes = math.ceil(task.tokens / together)
        return passes * (self.weight_bytes + task.rows * self.state_bytes)

    def bytes_per_token(self, task: Task) -> float:
        """Bytes read for each token of a task."""
        return self.bytes_read(task) / task.all_tokens

    def operations_per_byte(self, task: Task) -> float:
        """How often what was read is used, the horizontal axis of a roofline."""
        return self.operations / self.bytes_per_token(task)


def costs_of(model: Model) -> Costs:
    """The costs of a loaded model; its network without weights tells how many there are."""
    description = describe(model.path)
    weights = sum(
        tensor.numel()
        for name, tensor in description.network.state_dict().items()
        if is_matrix(name, tensor.shape) and not name.endswith(LOOKED_UP)
    )
    return Costs(model.weight_bytes, description.state_bytes, 2 * weights)
