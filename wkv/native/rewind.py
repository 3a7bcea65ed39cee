"""The states inside a pass of the native engine.

    S_t = S_{t-1} diag(w_t) + (S_{t-1} kappa_t) b_t^T + v_t k_t^T          (RWKV-7)

A pass keeps w, kappa, b, k and v of each token, much less than a state each: the state after any
token follows from the state before the pass, with the same bits. Generation 4 keeps its states.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wkv.native.compiled_plan import CompiledPlan
from wkv.native.layers import Parts, Readable, StackedLayers


class Rewind:
    """Computes the layers after the first tokens of each row of one pass.

    It refers to the state before the pass, whose memory must not change.
    """

    def __init__(
        self,
        plan: CompiledPlan,
        allocate: Callable[[int], Parts],
        tokens: Tensor,
        before: Readable,
        kept: Parts,
    ) -> None:
        """Describe a pass: `tokens` (B,) int32 were read by each row after the state `before`.

        `allocate` returns memory for the states of a number of rows.
        """
        self._plan, self._allocate, self._tokens = plan, allocate, tokens
        self._before, self._kept = before, kept

    def __call__(self, counts: Tensor) -> StackedLayers:
        """Return the layers after the first counts[b] tokens of row b, 0 to all of them."""
        new = self._allocate(len(counts))
        self._plan.rewind(
            self._tokens,
            counts.to(torch.int32),
            self._before.addresses,
            new.addresses,
            self._kept.addresses,
        )
        return StackedLayers.of(new)
