"""Sources of training rows (sequences of token ids), each of which depends only on its number.

Because row i is always the same row, a run that is resumed at step s gets the same batches as a run
without interruption, for any number of processes.
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
HELD_OUT_SHARE = 0.04
PARAGRAPH_SHARE = 0.3
"""Share of the prose rows that begin with an end-of-text token and the start of a paragraph."""

PAD_TO = 16
"""Rows of different lengths are padded to a multiple of this number of inputs."""

Segment = tuple[str, float]
"""A part of a document, and the weight of its tokens in the loss: 0 for text that is only input."""


class Row(NamedTuple):
    """A training row: T + 1 ids, the loss weight of each id as a target, and a source name.

    The loss is reported separately for each source.
    """

    ids: Sequence[int]
    weights: Sequence[float]
    source: str


class RowSource(Protocol):
    """An unlimited source of training rows."""

    @property
    def context(self) -> int:
        """The number of tokens per row, T."""
        ...

    @property
    def held_out(self) -> Sequence[Row]:
        """Rows that are never used for training, to measure the loss on; may be empty."""
        ...

    def row(self, number: int) -> Row:
        """Return the row of a number; every number from 0 is valid."""
        ...


class Prose:
    """A source of windows over texts.

    Each epoch splits the texts at new offsets, and uses each window once, in random order.
    """

    def __init__(
        self,
        texts: Sequence[np.ndarray],
        context: int,
        seed: int,
        paragraph_token: int | None,
        held_out: Sequence[Row] = (),
    ) -> None:
        """Prepare the windows.

        Args:
            texts: arrays of ids.
            context: tokens per row, T.
            seed: seed of offsets and order.
            paragraph_token: id after which a paragraph begins, or None.
            held_out: rows of other texts.

        Raises:
            TrainingError: if no text has 2 T tokens.
        """
        self.texts, self.context, self.seed = texts, context, seed
        self.held_out = held_out
        self.windows = [(len(text) - context) // context for text in texts]
        self.windows_per_epoch = sum(max(0, count) for count in self.windows)
        if not self.windows_per_epoch:
            raise TrainingError(
                f"the longest text has {max(map(len, texts), default=0)} tokens, "
                f"rows of {context} need {2 * context}; give more text or a smaller --context"
            )
        self.paragraphs = [np.flatnonzero(text == paragraph_token) + 1 for text in texts]
        self._epoch = lru_cache(maxsize=2)(self._starts)

    def _starts(self, epoch: int) -> list[tuple[int, int]]:
        """Return the (text, start) of all windows of an epoch, shuffled.

        The start of the first window of each text is random.
        """
        random = Random(f"{self.seed}/epoch/{epoch}")
        starts = []
        for number, count in enumerate(self.windows):
            offset = random.randrange(self.context)
            starts += [(number, offset + self.context * window) for window in range(count)]
        random.shuffle(starts)
        return starts

    def row(self, number: int) -> Row:
        """Return the row of a number, see `RowSource.row`."""
        epoch, window = divmod(number, self.windows_per_epoch)
        index, start = self._epoch(epoch)[window]
        text, size = self.texts[index], self.context + 1
        ids = text[start : start + size].tolist()
        if Random(f"{self.seed}/prose/{number}").random() < PARAGRAPH_SHARE:
            next_paragraph = np.searchsorted(self.paragraphs[index], start)
            if next_paragraph < len(self.paragraphs[index]):
                begin = self.paragraphs[index][next_paragraph]
                if begin + self.context <= len(text):
                    ids = [END_OF_TEXT, *text[begin : begin + self.context].tolist()]
        return Row(ids, [1.0] * size, "prose")


@dataclass(frozen=True)
class PackedDocuments:
    """A source of rows that are filled with generated documents, each followed by end-of-text.

    Attributes:
        write: generates a document with a random generator.
        encode: converts text to ids.
        context: tokens per row, T.
        seed: seed of the random generators.
    """

    write: Callable[[Random], Sequence[Segment]]
    encode: Callable[[str], list[int]]
    context: int
    seed: int
    held_out: Sequence[Row] = ()

    def row(self, number: int) -> Row:
        """Return the row of a number, see `RowSource.row`.

        Half of the rows begin with end-of-text, because a conversation may begin with or without.
        """
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
    """A mixture of two sources, whose first source provides a fixed share of the rows, evenly."""

    first: RowSource
    second: RowSource
    share: float

    @property
    def context(self) -> int:
        """The number of tokens per row."""
        return self.first.context

    @property
    def held_out(self) -> Sequence[Row]:
        """The rows of both sources."""
        return (*self.first.held_out, *self.second.held_out)

    def row(self, number: int) -> Row:
        """Return the row of a number, see `RowSource.row`."""
        before, after = int(number * self.share), int((number + 1) * self.share)
        return self.first.row(before) if after > before else self.second.row(number - before)


class Batch(NamedTuple):
    """A batch: inputs, targets and loss weights, (B, T) each, and the source of each row.

    Shorter rows are padded on the right with targets of weight 0. `n_tokens` is the number of
    inputs without padding.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    sources: list[str]
    n_tokens: int


def split_off(text: np.ndarray, context: int) -> tuple[np.ndarray, list[Row]]:
    """Split the end of a text off, and return the rest and rows of the end.

    The end has 4 % of the tokens or one row, whichever is more. A text whose end would be more than
    a tenth of it is not split.
    """
    size = context + 1
    count = max(size, int(HELD_OUT_SHARE * len(text)))
    if count > 0.1 * len(text):
        return text, []
    end = text[-count:].tolist()
    rows = [end[start : start + size] for start in range(0, count - size + 1, size)]
    return text[:-count], [Row(ids, [1.0] * size, "held-out") for ids in rows]


def batch(rows: RowSource, first: int, count: int) -> Batch:
    """Return the rows `first` to `first + count - 1` as tensors."""
    return stacked([rows.row(number) for number in range(first, first + count)])


def stacked(chosen: Sequence[Row]) -> Batch:
    """Return rows as tensors; rows of different lengths are padded to a multiple of PAD_TO."""
    sizes = [len(row.ids) for row in chosen]
    width = max(sizes)
    if min(sizes) < width:
        width += (1 - width) % PAD_TO
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in chosen])
    weights = torch.tensor([[*row.weights, *[0.0] * (width - len(row.ids))] for row in chosen])
    return Batch(
        ids[:, :-1].contiguous(),
        ids[:, 1:].contiguous(),
        weights[:, 1:].contiguous(),
        [row.source for row in chosen],
        sum(sizes) - len(sizes),
    )
