"""Model calls that start before the host has handled the tokens that they read.

A call on a GPU returns at once, so the host can turn tokens into text, look for stop strings and
deliver events while the GPU computes the next step. It is not known then which sequences have
ended. The result of a row that has is dropped, and the state before the call is the row's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wkv.errors import BusyError, InputError
from wkv.inference.model import Model
from wkv.inference.sequence import RunningSequence
from wkv.models.state import State


@dataclass(frozen=True)
class StepAhead:
    """A model call with one sampled token for each sequence.

    Attributes:
        tokens: by the identity of a sequence, the row and the token that it read.
        state: the state after these tokens, which the GPU may still be computing.
    """

    tokens: dict[int, tuple[int, int]]
    state: State

    @staticmethod
    def start(
        model: Model,
        state: State,
        sequences: Sequence[RunningSequence],
        outcomes: Sequence[int | InputError],
    ) -> StepAhead | None:
        """Start a call if the model's engine returns at once, and all outcomes are tokens.

        Args:
            model: the model.
            state: the state of all sequences, which stays valid.
            sequences: one for each row of the state.
            outcomes: the token that was sampled for each, or why none could be sampled.
        """
        if model.engine != "cuda":
            return None
        tokens = [one for one in outcomes if isinstance(one, int)]
        if len(tokens) < state.batch_size:
            return None
        try:
            _, after = model.forward(torch.tensor(tokens)[:, None], state)
        except BusyError:  # a later call raises it again, when nothing has to be undone
            return None
        rows = {id(one): (row, tokens[row]) for row, one in enumerate(sequences)}
        return StepAhead(rows, after)

    def state_of(self, sequences: Sequence[RunningSequence]) -> State | None:
        """Return the state after the call of some sequences, or None if it did not read for all."""
        rows = []
        for sequence in sequences:
            row, token = self.tokens.get(id(sequence), (-1, -1))
            if row < 0 or sequence.token_ids[-1:] != [token]:
                return None
            rows.append(row)
        if rows == list(range(self.state.batch_size)):
            return self.state
        return self.state.rows(rows)
