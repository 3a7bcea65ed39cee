"""Decode: sequences that grow together, one token each per step.

    batch = RunningBatch(model)
    batch.add([sequence, ...], [state, ...])     # the states after the prompts, one row each
    while batch.sequences:
        for event in batch.sample(): ...         # the next token of each sequence
        batch.remove(batch.complete())           # the sequences that have ended
        batch.forward()                          # the model reads the new tokens, and drafts

`generate`, `stream` and the server's scheduler all use this loop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from wkv.errors import WKVError
from wkv.inference.ahead import StepAhead
from wkv.inference.batch_state import BatchState
from wkv.inference.model import Model
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import SampledToken
from wkv.inference.sequence import RunningSequence
from wkv.inference.speculation import Speculation
from wkv.inference.speculation.draft_pass import DraftedRow, DraftPass
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

    With speculation, a pass of the model also reads drafts. Each `sample` still samples one token
    of a sequence; while the tokens are the drafts, `forward` has nothing to do for it.

    Attributes:
        sequences: one for each row of the state.
    """

    def __init__(self, model: Model, speculation: Speculation | None = None) -> None:
        self.sequences: list[AnySequence] = []
        self._rows = BatchState()
        self._model = model
        self._speculation = speculation
        self._pass: DraftPass | None = None
        self._ahead: StepAhead | None = None

    @property
    def state(self) -> State | None:
        """The state of all rows, with logits; None while there are no sequences.

        It shares its memory with the batch: use it before the next change, or clone it. It has
        read all drafts of the last pass, also those that were rejected.
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

    def complete(self) -> list[AnySequence]:
        """Return the sequences that have ended and whose tokens the model has all read."""
        return [
            one
            for row, one in enumerate(self.sequences)
            if one.finish_reason is not None and not self._unread(row)
        ]

    def sample(self) -> list[SampleEvent[AnySequence]]:
        """Sample the next token of every sequence that does not wait for the model."""
        if self.state is None or self.state.logits is None:
            return []
        rows = [row for row in range(len(self.sequences)) if self._can_sample(row)]
        if not rows:
            return []
        sequences = [self.sequences[row] for row in rows]
        logits = self._logits(rows)
        processed, errors = _processed(logits, sequences)
        sample = self._model.graph_sampler or sample_batch
        outcomes = sample(processed, [sequence.sampler for sequence in sequences])
        if self._speculation is None:
            self._ahead = StepAhead.start(self._model, self.state, sequences, outcomes)
        return [
            _event(sequence, logits[row], errors.get(row, outcome))
            for row, (sequence, outcome) in enumerate(zip(sequences, outcomes, strict=True))
        ]

    def forward(self) -> None:
        """Let the model read the tokens that were sampled last, and drafts of the next ones.

        Nothing happens while a token of any sequence can be sampled without the model.
        """
        rows = range(len(self.sequences))
        if not rows or any(self._can_sample(row) for row in rows):
            return
        ahead, self._ahead = self._ahead, None
        known = None if ahead is None else ahead.state_of(self.sequences)
        if known is not None:
            self._rows.update(known)
            return
        if self._speculation is None:
            self._read([self._unread(row) for row in rows])
            return
        with self._speculation.clock.rewind():
            self._remove_rejected()
        ids = [self._unread(row) for row in rows]
        drafts = self._speculation.next_drafts(self.sequences)
        with self._speculation.clock.read(len(ids) + sum(map(len, drafts))):
            if any(drafts):
                self._read_drafts(ids, drafts)
            else:
                self._read(ids)

    def remove(self, sequences: Sequence[AnySequence]) -> list[State]:
        """Take sequences out of the batch.

        Returns:
            Their states, one row each. A state lacks the token that was sampled last, if the model
            has not read it; `absorb` reads it.
        """
        if not sequences:
            return []
        if self._speculation is not None:
            self._speculation.update(sequences)
        rows = {id(sequence): row for row, sequence in enumerate(self.sequences)}
        removed = [rows[id(sequence)] for sequence in sequences]
        drafted = [self._drafted(row) for row in removed]
        states, order = self._rows.remove(removed)
        self.sequences = [self.sequences[row] for row in order]
        for number, (sequence, one) in enumerate(zip(sequences, drafted, strict=True)):
            if self._pass is not None and one is not None:
                if one.n_rejected(sequence.token_ids):
                    state = self._pass.without_rejected([sequence])
                    states[number] = state.rows([one.number])
                self._pass.forget(sequence)
        return states

    def _drafted(self, row: int) -> DraftedRow | None:
        """Return what the last pass has read of a row's drafts, or None."""
        if self._pass is None or self.state is None:
            return None
        return self._pass.row(self.sequences[row], self.state.tokens_seen[row])

    def _unread(self, row: int) -> list[int]:
        """Return the sampled ids of a row that the model has not read."""
        assert self.state is not None
        sequence, one = self.sequences[row], self._drafted(row)
        rejected = 0 if one is None else one.n_rejected(sequence.token_ids)
        return sequence.unread(self.state.tokens_seen[row] - rejected)

    def _can_sample(self, row: int) -> bool:
        return self.sequences[row].finish_reason is None and not self._unread(row)

    def _logits(self, rows: Sequence[int]) -> Tensor:
        """Return the logits (R, V) of the next token of some rows."""
        assert self.state is not None
        logits = self.state.logits
        assert logits is not None
        if self._pass is None:
            return logits if len(rows) == len(self.sequences) else logits[list(rows)]
        found = []
        for row in rows:
            one = self._drafted(row)
            if one is None:
                found.append(logits[row])
            else:
                accepted = len(one.drafts) - one.n_rejected(self.sequences[row].token_ids)
                found.append(one.logits[accepted])
        return torch.stack(found)

    def _read(self, ids: Sequence[list[int]]) -> None:
        """Read one id of each row."""
        _, state = self._model.forward(torch.tensor(ids), self.state)
        self._rows.update(state)

    def _read_drafts(self, ids: Sequence[list[int]], drafts: Sequence[list[int]]) -> None:
        """Read the ids and drafts of each row in one pass."""
        rows = [[*own, *more] for own, more in zip(ids, drafts, strict=True)]
        lengths = [len(row) for row in rows]
        padded = [[*row, *[0] * (max(lengths) - len(row))] for row in rows]
        read = self._model.forward_rewindable(torch.tensor(padded), self.state, lengths=lengths)
        self._pass = DraftPass(read, self.sequences, drafts)
        self._rows.update(read.state)

    def _remove_rejected(self) -> None:
        """Replace states that have read rejected drafts by those before them."""
        drafted = [self._drafted(row) for row in range(len(self.sequences))]
        rejected = {
            row: one.number
            for row, one in enumerate(drafted)
            if one is not None and one.n_rejected(self.sequences[row].token_ids)
        }
        if rejected and self._pass is not None:
            state = self._pass.without_rejected(self.sequences[row] for row in rejected)
            same = range(state.batch_size)  # the rows of the pass, unless sequences came or went
            if [one and one.number for one in drafted] == list(same):
                self._rows.update(state)
            else:
                self._rows.replace(rejected, state)
        self._pass = None


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
