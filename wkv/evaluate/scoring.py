"""Log probabilities of continuations, which LAMBADA and the harness both measure.

    log p(target | context) = sum over i of log softmax(logits before target i)[target i]

For the context only the logits after its last token are computed, as in a prefill. The logits of
the target are computed in chunks. So memory use depends on the batch size and the vocabulary, but
not on the lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.inference.model import Model

LOGITS_AT_ONCE = 2**24
"""Logits of a batch in memory at the same time: 64 MiB, and as much for their log softmax."""

WIDTH_STEP = 16
"""Batches are padded to a multiple of this width, or to a power of 2 if they are narrower. oneDNN
caches compiled code for each shape, and for hundreds of widths that takes more memory than a small
model."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The token ids of a context, at least one, and of its continuation."""

    context: Sequence[int]
    target: Sequence[int]


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a pair.

    Attributes:
        log_probability: natural log of the target's probability after the context; 0 if the target
            is empty.
        is_greedy: whether each id of the target was the most likely one.
    """

    log_probability: float
    is_greedy: bool


def score(
    model: Model,
    pairs: Sequence[Pair],
    batch_size: int,
    on_scored: Callable[[int], object] | None = None,
) -> list[Score]:
    """Score pairs, each from the empty state, in batches of similar length.

    Args:
        model: any loaded model.
        pairs: pairs in any order.
        batch_size: number of pairs per batch; only affects rounding errors.
        on_scored: called with the number of pairs of each finished batch.

    Returns:
        A score for each pair, in the order of `pairs`.

    Raises:
        InputError: if a context has no ids, or ids are not in the vocabulary.
    """
    if not all(pair.context for pair in pairs):
        raise InputError(
            "a context has no ids, so nothing can be predicted; start it with an id, such as 0"
        )
    order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i].context), len(pairs[i].target)))
    scores: dict[int, Score] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        done = _score_batch(model, [pairs[i] for i in chosen])
        scores.update(zip(chosen, done, strict=True))
        if on_scored is not None:
            on_scored(len(chosen))
    return [scores[i] for i in range(len(pairs))]


def _score_batch(model: Model, pairs: Sequence[Pair]) -> list[Score]:
    """Score pairs as the rows of one batch."""
    totals = [_Total(pair.target) for pair in pairs]
    tokens, lengths = _padded([pair.context for pair in pairs])
    logits, state = model.forward(tokens, lengths=lengths)
    for total, row in zip(totals, logits, strict=True):
        total.add(row[None])
    running, step = totals, max(1, LOGITS_AT_ONCE // (len(pairs) * model.config.vocab_size))
    while places := [place for place, total in enumerate(running) if not total.is_done]:
        running, state = [running[place] for place in places], state.rows(places)
        tokens, lengths = _padded([total.next_ids(step) for total in running])
        logits, state = model.forward(tokens, state, lengths=lengths, all_logits=True)
        for total, row, length in zip(running, logits, lengths, strict=True):
            total.add(row[:length])
    return [Score(total.log_probability, total.is_greedy) for total in totals]


class _Total:
    """The running score of one target."""

    def __init__(self, target: Sequence[int]) -> None:
        self._target = target
        self._scored = 0
        self.log_probability = 0.0
        self.is_greedy = True

    @property
    def is_done(self) -> bool:
        """Whether the whole target was scored."""
        return self._scored == len(self._target)

    def next_ids(self, limit: int) -> Sequence[int]:
        """Return the ids to read next: from the last scored id on, except the target's last id."""
        first = self._scored - 1
        return self._target[first : min(first + limit, len(self._target) - 1)]

    def add(self, logits: Tensor) -> None:
        """Score the next ids, given the logits (T, V) before each of them."""
        wanted = self._target[self._scored : self._scored + len(logits)]
        if not wanted:  # the target is empty
            return
        ids = torch.tensor(wanted, device=logits.device)
        logs = torch.log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0]
        self.log_probability += sum(logs.tolist())
        self.is_greedy &= bool((logits.argmax(dim=-1) == ids).all())
        self._scored += len(wanted)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Return rows as a tensor (B, T), padded on the right with id 0, and their lengths."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    if width > WIDTH_STEP:
        width += -width % WIDTH_STEP
    else:
        width = 1 << (width - 1).bit_length()
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]), lengths
