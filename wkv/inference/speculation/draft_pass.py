"""A pass over drafts: which of them were accepted, and the states after these."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from wkv.inference.rewind import RewindablePass
from wkv.inference.sequence import RunningSequence
from wkv.models.state import State


@dataclass(frozen=True)
class DraftedRow:
    """One sequence's part of a pass.

    It counts nothing itself: everything follows from the tokens that the sequence has sampled. So
    it stays correct wherever Ctrl-C interrupts the sampling.

    Attributes:
        number: the row of the pass.
        drafts: the last ids that the pass has read of the sequence.
        n_sampled: the number of tokens that the sequence had sampled before the pass.
        logits: (1 + drafts, V), before each draft and after the last one.
    """

    number: int
    drafts: Sequence[int]
    n_sampled: int
    logits: Tensor

    def n_rejected(self, sampled: Sequence[int]) -> int:
        """Return how many drafts are not, or not yet, tokens that were sampled."""
        count = len(self.drafts)
        for draft, token in zip(self.drafts, sampled[self.n_sampled :], strict=False):
            if draft != token:
                break
            count -= 1
        return count


class DraftPass:
    """The last pass, if it has read drafts."""

    def __init__(
        self,
        read: RewindablePass,
        sequences: Sequence[RunningSequence],
        drafts: Sequence[Sequence[int]],
    ) -> None:
        """Describe a pass that has read, for each sequence, its unread tokens and these drafts."""
        self._read = read
        ends = accumulate(read.lengths)
        self._rows = {
            id(one): DraftedRow(
                number, own, len(one.token_ids), read.logits[end - len(own) - 1 : end]
            )
            for number, (one, own, end) in enumerate(zip(sequences, drafts, ends, strict=True))
        }

    def row(self, sequence: RunningSequence, tokens_seen: int) -> DraftedRow | None:
        """Return the row of a sequence; None unless this pass gave the state that it has now.

        Args:
            sequence: a sequence.
            tokens_seen: the number of tokens that its state has seen.
        """
        row = self._rows.get(id(sequence))
        if row is None or self._read.state.tokens_seen[row.number] != tokens_seen:
            return None
        return row

    def forget(self, sequence: RunningSequence) -> None:
        """Remove a sequence; its id may be that of another object later."""
        self._rows.pop(id(sequence), None)

    def without_rejected(self, sequences: Iterable[RunningSequence]) -> State:
        """Return the state of all rows of the pass, without the rejected drafts of sequences."""
        counts = list(self._read.lengths)
        for sequence in sequences:
            row = self._rows[id(sequence)]
            counts[row.number] -= row.n_rejected(sequence.token_ids)
        return self._read.rewind(counts)
