"""Rows of token ids to train on, each a function of its number alone.

Because row i is always the same row, a run that is resumed at step s sees the batches that it
would have seen without the pause, however many processes share them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from wkv.errors import TrainingError

END_OF_TEXT = 0
PARAGRAPH_SHARE = 0.3
"""Share of the prose rows that begin at a paragraph, after an end-of-text token."""

Segment = tuple[str, float]
"""A piece of a document and the weight of its tokens in the loss: 0 for what is only read."""


class Row(NamedTuple):
    """T + 1 ids, the weight of each as a target, and the name under which its loss is reported."""

    ids: Sequence[int]
    weights: Sequence[float]
    source: str


class Rows(Protocol):
    """A source of rows."""

    @property
    def context(self) -> int:
        """Tokens per row, T."""
        ...

    def row(self, number: int) -> Row:
        """The row of that number; numbers have no end."""
        ...


class Prose:
    """Windows over texts: every epoch cuts them anew and takes each piece once, in random order."""

    def __init__(
        self, texts: Sequence[np.ndarray], context: int, seed: int, paragraph_token: int | None
    ) -> None:
        """Texts are arrays of ids; `paragraph_token` is the id after which a paragraph begins."""
        self.texts, self.context, self.seed = texts, context, seed
        self.windows = [(len(text) - context) // context for text in texts]
        self.windows_per_epoch = sum(max(0, count) for count in self.windows)
        if not self.windows_per_epoch:
            raise TrainingError(
                f"the longest text has {max(map(len, texts), default=0)} tokens, "
                f"rows of {context} need {2 * context}; give more text or a smaller --context"
            )
        self.paragraphs = [np.flatnonzero(text == paragraph_token) + 1 for text in texts]
        self._epoch = lru_cache(maxsize=2)(self._cut)

    def _cut(self, epoch: int) -> list[tuple[int, int]]:
        """All (text, start) of an epoch, shuffled; the first start of each text is random."""
        random = Random(f"{self.seed}/epoch/{epoch}")
        cuts = []
        for number, count in enumerate(self.windows):
            offset = random.randrange(self.context)
            cuts += [(number, offset + self.context * window) for window in range(count)]
        random.shuffle(cuts)
        return cuts

    def row(self, number: int) -> Row:
        """See `Rows`."""
        epoch, place = divmod(number, self.windows_per_epoch)
        which, start = self._epoch(epoch)[place]
        text, size = self.texts[which], self.context + 1
        ids = text[start : start + size].tolist()
        if Random(f"{self.seed}/prose/{number}").random() < PARAGRAPH_SHARE:
            next_paragraph = np.searchsorted(self.paragraphs[which], start)
            if next_paragraph < len(self.paragraphs[which]):
                begin = self.paragraphs[which][next_paragraph]
                if begin + self.context <= len(text):
                    ids = [END_OF_TEXT, *text[begin : begin + self.context].tolist()]
        return Row(ids, [1.0] * size, "prose")


@dataclass(frozen=True)
class Packed:
    """Rows packed with generated documents, an end-of-text token after each.

    Attributes:
        write: makes a document from a random generator.
        encode: text to ids.
    """

    write: Callable[[Random], Sequence[Segment]]
    encode: Callable[[str], list[int]]
    context: int
    seed: int

    def row(self, number: int) -> Row:
        """See `Rows`. Half of the rows begin with end-of-text, as a conversation may or may not."""
        random = Random(f"{self.seed}/packed/{number}")
        size = self.context + 1
        ids = [END_OF_TEXT] if random.random() < 0.5 else []
        weights = [0.0] * len(ids)
        while len(ids) < size:
            for text, weight in self.write(random):
                piece = self.encode(text)
                ids += piece
                weights += [weight] * len(piece)
            ids.append(END_OF_TEXT)
            weights.append(0.0)
        return Row(ids[:size], weights[:size], "chat")


@dataclass(frozen=True)
class Mixture:
    """Two sources of rows, the first with a fixed share, spread evenly."""

    first: Rows
    second: Rows
    share: float

    @property
    def context(self) -> int:
        """Tokens per row."""
        return self.first.context

    def row(self, number: int) -> Row:
        """See `Rows`."""
        before, after = int(number * self.share), int((number + 1) * self.share)
        return self.first.row(before) if after > before else self.second.row(number - before)


class Batch(NamedTuple):
    """Inputs (B, T), targets and weights (B, T), and each row's source."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    sources: list[str]


def batch(rows: Rows, first: int, count: int) -> Batch:
    """Rows `first` to `first + count - 1` as tensors."""
    chosen = [rows.row(number) for number in range(first, first + count)]
    ids = torch.tensor([row.ids for row in chosen])
    weights = torch.tensor([row.weights for row in chosen])
    return Batch(
        ids[:, :-1].contiguous(),
        ids[:, 1:].contiguous(),
        weights[:, 1:].contiguous(),
        [row.source for row in chosen],
    )
