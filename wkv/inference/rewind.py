"""A pass whose last tokens can be taken back, for drafts that turn out to be wrong.

    read = model.forward_rewindable([certain, *drafts], state)
    read.logits                  # after each token
    read.state                   # after all of them
    read.rewind([1])             # after the first of them: all drafts were wrong

The native engine keeps little of each token and gives the bits of a pass of the first tokens alone.
Other engines read the first tokens again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.models.state import EngineLayers, Layers, State

LayersAfter = Callable[[Tensor], Layers]
"""Returns the layers after the first counts[b] tokens of row b, given counts (B,) int64."""


class RewindablePass:
    """The result of reading T tokens in each of B rows, or `lengths` tokens.

    Attributes:
        logits: (R, V) float32, the prediction after each of the R tokens of all rows, row after
            row and without padding.
        lengths: the number of tokens of each row.
        state: the state after all tokens.
    """

    def __init__(
        self,
        logits: Tensor,
        before: State,
        layers: Layers,
        lengths: Sequence[int],
        layers_after: LayersAfter,
    ) -> None:
        """Describe a pass from the state `before` to `layers`."""
        self.logits = logits
        self.lengths = tuple(lengths)
        self._before, self._layers_after = before, layers_after
        self.state = self._state(layers, self.lengths)

    def rewind(self, counts: Sequence[int]) -> State:
        """Return the state after the first tokens of each row.

        The pass refers to the state before it: if somebody changes that state's memory (as a
        `BatchState` does when sequences come and go), rewind earlier.

        Args:
            counts: for each row, how many tokens to count as read, from 0 to its length.

        Returns:
            A new state, which shares no memory with others; `state` if all tokens count.

        Raises:
            InputError: for another number of counts, or counts out of range.
        """
        found = tuple(int(count) for count in counts)
        in_range = len(found) == len(self.lengths) and all(
            0 <= count <= length for count, length in zip(found, self.lengths, strict=True)
        )
        if not in_range:
            raise InputError(
                f"a pass of {list(self.lengths)} tokens cannot be rewound to {list(found)}; give "
                "one count for each row, from 0 to its number of tokens"
            )
        if found == self.lengths:
            return self.state
        return self._state(self._layers_after(torch.tensor(found)), found)

    def _state(self, layers: Layers, counts: tuple[int, ...]) -> State:
        """Return the state of layers that have read the first `counts` tokens."""
        before = self._before
        seen = tuple(old + new for old, new in zip(before.tokens_seen, counts, strict=True))
        logits = None
        if before.logits is not None or all(counts):
            starts = accumulate(self.lengths[:-1], initial=0)
            logits = self.logits[
                [start + max(count, 1) - 1 for start, count in zip(starts, counts, strict=True)]
            ]
            for row, count in enumerate(counts):
                if count == 0 and before.logits is not None:
                    logits[row] = before.logits[row]
        return replace(before, layers=layers, tokens_seen=seen, logits=logits)


@torch.no_grad()
def run_rewindable(
    network: Any, ids: Tensor, layers: Layers, lengths: Tensor | None
) -> tuple[Tensor, Layers, LayersAfter]:
    """Run a network of any engine so that it can be rewound.

    Args:
        network: a `Network`. If it has a method `rewindable`, that is used.
        ids: (B, T) int64, padded on the right.
        layers: the state before the pass.
        lengths: (B,) int64, or None without padding.

    Returns:
        The residual stream (R, D) of all R tokens without padding, the layers after all tokens,
        and the function that computes the layers after the first ones.
    """
    if hasattr(network, "rewindable"):
        X, after, again = network.rewindable(ids, layers, lengths)
        return X, after, again
    device = layers.device if isinstance(layers, EngineLayers) else layers[0].wkv.device
    on_device = None if lengths is None else lengths.to(device)
    X, after = network(ids, layers, on_device)
    X = X.flatten(0, 1) if lengths is None else X[_real(ids, lengths).to(X.device)]

    @torch.no_grad()
    def read_again(counts: Tensor) -> Layers:
        new: Layers = network(ids[:, : max(1, int(counts.max()))], layers, counts.to(device))[1]
        return new

    return X, after, read_again


def _real(ids: Tensor, lengths: Tensor) -> Tensor:
    """Return which of the ids (B, T) are not padding."""
    return torch.arange(ids.shape[1]) < lengths[:, None]
