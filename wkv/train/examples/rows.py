"""Sources of rows from documents: one document, or several joined conversations, in each row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from wkv.train.data import Row
from wkv.train.examples.encode import Document

GROUP = 8
"""Batches of rows among which documents are sorted by length, so that little is padding."""


def row_of(document: Document, source: str) -> Row:
    """Return a document as a row."""
    return Row(document.ids, document.weights, source)


def joined(documents: Sequence[Document]) -> Document:
    """Return several conversations as one, which begins as the first and ends as the last."""
    if len(documents) == 1:
        return documents[0]
    ids: list[int] = []
    weights: list[float] = []
    answers: list[tuple[int, int]] = []
    for number, document in enumerate(documents):
        body = document.body()
        first, last = number == 0, number == len(documents) - 1
        start = body.ids[:0] if not first else document.ids[: _begin(document)]
        end = document.ids[len(document.ids) - _end(document) :] if last else []
        shift = len(ids) + len(start)
        answers += [(a + shift, b + shift) for a, b in body.answers]
        ids += [*start, *body.ids, *end]
        weights += (
            [0.0] * len(start) + body.weights + document.weights[len(document.ids) - len(end) :]
        )
    return Document(ids, weights, tuple(answers), documents[-1].where)


def _begin(document: Document) -> int:
    return int(document.ids[0] == 0)


def _end(document: Document) -> int:
    return int(len(document.ids) > 1 and document.ids[-1] == 0)


@dataclass
class DocumentRows:
    """A source of rows with documents of about the same length next to each other.

    Each epoch uses every document once, in random order.

    Attributes:
        documents: the documents.
        context: the largest number of tokens of a row.
        seed: seed of the order.
        rows: number of rows in a step.
        source: name of the rows in the log.
        turns: largest number of conversations that are joined to one row.
        held_out: rows that are not used for training.
    """

    documents: Sequence[Document]
    context: int
    seed: int
    rows: int
    source: str = "answers"
    turns: int = 1
    held_out: Sequence[Row] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Prepare the cache of the order of an epoch."""
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def _shuffled(self, epoch: int) -> list[int]:
        """Return the order of an epoch: shuffled batches, each of documents of similar length."""
        random = Random(f"{self.seed}/documents/{epoch}")
        order = random.sample(range(len(self.documents)), len(self.documents))
        batches: list[list[int]] = []
        for start in range(0, len(order), GROUP * self.rows):
            near = sorted(
                order[start : start + GROUP * self.rows],
                key=lambda index: len(self.documents[index].ids),
            )
            batches += [near[i : i + self.rows] for i in range(0, len(near), self.rows)]
        random.shuffle(batches)
        return [index for batch in batches for index in batch]

    def row(self, number: int) -> Row:
        """Return the row of a number, see `wkv.train.data.RowSource.row`."""
        epoch, index = divmod(number, len(self.documents))
        last = self.documents[self._order(epoch)[index]]
        if self.turns == 1:
            return row_of(last, self.source)
        random = Random(f"{self.seed}/turns/{number}")
        chosen, size = [last], len(last.ids)
        for _ in range(random.randrange(self.turns)):
            other = self.documents[random.randrange(len(self.documents))]
            size += len(other.ids)
            if size > self.context + 1:
                break
            chosen.insert(0, other)
        return row_of(joined(chosen), self.source)
