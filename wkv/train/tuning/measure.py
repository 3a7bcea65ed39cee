"""Measure a network on documents: the loss of what is learned, and exact greedy answers.

One pass tells whether a greedy answer would be exact: it is if, at every token of the answer, the
most likely token is the right one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.models.parts import Skeleton
from wkv.models.state import LayerState
from wkv.train.data import stacked
from wkv.train.examples.encode import Document
from wkv.train.examples.rows import row_of
from wkv.train.loss import LOGITS_AT_ONCE, cross_entropy

LONGEST_ANSWER = 32
"""Answers of more tokens are not examined for exactness."""

TOKENS_AT_ONCE = 4096
"""Number of tokens in a batch."""

PART = 1024
"""Number of tokens of a row that are computed at a time."""

Layers = Callable[[int], tuple[LayerState, ...]]
"""A function that returns the state with which a number of rows begin."""


@dataclass(frozen=True)
class Measured:
    """The result of a measurement.

    Attributes:
        loss: mean cross entropy of a learned token, in nats.
        n_tokens: number of learned tokens.
        exact: share of exact greedy answers among those that are short enough; None without any.
        n_answers: number of these answers.
    """

    loss: float
    n_tokens: int
    exact: float | None
    n_answers: int

    def describe(self) -> str:
        """Describe the result in words."""
        text = f"{self.loss:.3f} a token"
        if self.exact is not None:
            text += f", {100 * self.exact:.0f} % of {self.n_answers} short answers exact"
        return text


@torch.no_grad()
def measure(network: Skeleton, layers: Layers, documents: Sequence[Document]) -> Measured:
    """Measure a network on documents.

    Args:
        network: the network.
        layers: returns the state with which documents begin.
        documents: the documents; tokens with a weight above 0 count, all equally.
    """
    total, count, exact, answers = 0.0, 0, 0, 0
    for batch in _batches(documents):
        losses, hits = _losses(network, layers, batch)
        for number, document in enumerate(batch):
            size = len(document.ids)
            counts = torch.tensor(document.weights[1:]) > 0
            total += float(losses[number, : size - 1][counts].sum().double())
            count += int(counts.sum())
            for first, end in document.answers:
                if end - first <= LONGEST_ANSWER:
                    answers += 1
                    exact += bool(hits[number, first - 1 : end - 1].all())
    share = exact / answers if answers else None
    return Measured(total / max(count, 1), count, share, answers)


def _batches(documents: Sequence[Document]) -> list[list[Document]]:
    """Return documents in batches of similar length."""
    batches: list[list[Document]] = []
    for document in sorted(documents, key=lambda one: len(one.ids)):
        if batches and (len(batches[-1]) + 1) * len(document.ids) <= TOKENS_AT_ONCE:
            batches[-1].append(document)
        else:
            batches.append([document])
    return batches


def _losses(network: Skeleton, layers: Layers, batch: Sequence[Document]) -> tuple[Tensor, Tensor]:
    """Return the cross entropy at each input, and whether the greedy token is right; (B, T)."""
    device = network.emb.weight.device
    rows = stacked([row_of(document, "") for document in batch])
    losses = torch.zeros(rows.inputs.shape)
    hits = torch.zeros(rows.inputs.shape, dtype=torch.bool)
    state = layers(len(batch))
    for start in range(0, rows.inputs.shape[1], PART):
        here = slice(start, start + PART)
        X, state = network(rows.inputs[:, here].to(device), state)
        rows_of, columns = torch.nonzero(rows.weights[:, here], as_tuple=True)
        targets = rows.targets[:, here][rows_of, columns].to(X.device)
        chosen = X[rows_of.to(X.device), columns.to(X.device)]
        step = max(1, LOGITS_AT_ONCE // network.config.vocab_size)
        for first in range(0, len(chosen), step):
            part = slice(first, first + step)
            logits = network.logits(chosen[part]).float()
            found = cross_entropy(logits, targets[part])[0]
            place = rows_of[part], columns[part] + start
            losses[place] = found.cpu()
            hits[place] = (logits.argmax(-1) == targets[part]).cpu()
    return losses, hits


def bits_per_byte(measured: Measured, n_bytes: int) -> float:
    """Convert the loss of a whole text to bits per byte."""
    return measured.loss * measured.n_tokens / math.log(2) / max(n_bytes, 1)
