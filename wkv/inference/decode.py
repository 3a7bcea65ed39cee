"""Decode: sequences that grow together, one token each per step.

    batch = RunningBatch(model)
    batch.add([sequence, ...], [state, ...])     # the states after the prompts, one row each
    while batch.sequences:
        for event in batch.sample(): ...         # the next token of each sequence
        batch.remove([...])                      # the sequences that have ended
        batch.forward()                          # the model reads the new tokens

`generate`, `stream` and the server's scheduler all use this loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from wkv.errors import WKVError
from wkv.inference.batch_state import BatchState
from wkv.inference.model import Model
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import SampledToken
from wkv.inference.sequence import RunningSequence
from wkv.models.state import State

AnySequence = TypeVar("AnySequence", bound=RunningSequence)
"""The type of the sequences in a batch; the scheduler's also know their request."""


@dataclass(frozen=True)
class SampleEvent(Generic[AnySequence]):
    """The outcome of sampling one sequence once.

    Attributes:
        sequence: the sequence.
        text: the text that became certain; it may be empty.
        token: the sampled id; None if the text has ended.
        logprobs: those of the token, if the sequence reports them.
        error: why no token could be sampled; None if one was.
    """

    sequence: AnySequence
    text: str = ""
    token: int | None = None
    logprobs: SampledToken | None = None
    error: Exception | None = None


class RunningBatch(Generic[AnySequence]):
    """Sequences that are decoded together.

    Attributes:
        sequences: one for each row of the state.
    """

    def __init__(self, model: Model) -> None:
        self.sequences: list[AnySequence] = []
        self._rows = BatchState()
        self._model = model

    @property
    def state(self) -> State | None:
        """The state of all rows, with logits; None while there are no sequences.

        It shares its memory with the batch: use it before the next change, or clone it.
        """
        return self._rows.state

    def add(self, sequences: Sequence[AnySequence], states: Sequence[State]) -> None:
        """Add sequences with the states after what they have read.

        Args:
            sequences: new ones, or ones that were removed earlier.
            states: with as many rows in all as there are sequences.
        """
        seen = [count for state in states for count in state.tokens_seen]
        for sequence, count in zip(sequences, seen, strict=True):
            if not sequence.token_ids:
                sequence.tokens_before = count
        self._rows.append(states)
        self.sequences += sequences

    def sample(self) -> list[SampleEvent[AnySequence]]:
        """Sample the next token of every sequence that has not ended."""
        if self.state is None or self.state.logits is None:
            return []
        running = [row for row, one in enumerate(self.sequences) if one.finish_reason is None]
        if not running:
            return []
        sequences = [self.sequences[row] for row in running]
        is_whole = len(running) == len(self.sequences)
        logits = self.state.logits if is_whole else self.state.logits[running]
        processed, errors = _processed(logits, sequences)
        outcomes = sample_batch(processed, [sequence.sampler for sequence in sequences])
        return [
            _event(sequence, logits[row], errors.get(row, outcome))
            for row, (sequence, outcome) in enumerate(zip(sequences, outcomes, strict=True))
        ]

    def forward(self) -> None:
        """Let the model read the token that each sequence sampled last."""
        tokens = torch.tensor([[sequence.token_ids[-1]] for sequence in self.sequences])
        _, state = self._model.forward(tokens, self.state)
        self._rows.update(state)

    def remove(self, sequences: Sequence[AnySequence]) -> list[State]:
        """Take sequences out of the batch.

        Returns:
            Their states, one row each. A state lacks the token that was sampled after the last
            `forward`; `absorb` reads it.
        """
        if not sequences:
            return []
        rows = {id(sequence): row for row, sequence in enumerate(self.sequences)}
        states, order = self._rows.remove([rows[id(sequence)] for sequence in sequences])
        self.sequences = [self.sequences[row] for row in order]
        return states


def absorb(model: Model, state: State, sequence: RunningSequence) -> State:
    """Let a one-row state read the tokens of its sequence that it lacks."""
    missing = sequence.unread(state.tokens_seen[0])
    return model.forward(missing, state)[1] if missing else state


def _processed(
    logits: Tensor, sequences: Sequence[RunningSequence]
) -> tuple[Tensor, dict[int, Exception]]:
    """Return logits (R, V) after the logits processors, and the errors of processors by row."""
    processed, errors = logits, dict[int, Exception]()
    for row, sequence in enumerate(sequences):
        if sequence.logits_processor is None:
            continue
        if processed is logits:
            processed = logits.clone()
        try:
            processed[row] = sequence.logits_processor(logits[row], sequence.token_ids)
        except Exception as error:  # an error is that sequence's alone
            errors[row] = error
    return processed, errors


def _event(
    sequence: AnySequence, logits: Tensor, outcome: int | Exception
) -> SampleEvent[AnySequence]:
    """Add a sampled token to its sequence, and describe the result."""
    count = len(sequence.token_ids)
    try:
        if isinstance(outcome, Exception):
            raise outcome
        text = sequence.accept(outcome)
    except Exception as error:
        if not bool(torch.isfinite(logits).all()):  # the model's error, not the request's
            return SampleEvent(sequence, error=WKVError(str(error)))
        return SampleEvent(sequence, error=error)
    if len(sequence.token_ids) == count:
        return SampleEvent(sequence, text)
    return SampleEvent(sequence, text, outcome, sequence.logprobs(logits))
