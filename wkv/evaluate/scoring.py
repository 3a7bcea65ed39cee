"""How probable a model finds a continuation: what LAMBADA and the harness both measure.

    log p(target | context) = sum over i of log softmax(logits before target i)[target i]

The logits of a context are never made, but for those after its last token: a context is read as a
prefill, and only the target passes with all its logits, piece by piece where it is long. So memory
depends on the batch and the vocabulary, not on the lengths.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.inference.model import Model

LOGITS_AT_ONCE = 2**24
"""Logits of a batch that exist together: 64 MiB, as much again for their log softmax at most."""


WIDTH_STEP = 16
"""Batches are padded to a multiple of it, or below it to a power of 2: oneDNN keeps what it has
compiled for every shape, and with hundreds of widths that is more memory than a small model."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is read, at least one id, and what is to follow it; ids."""

    context: Sequence[int]
    target: Sequence[int]


@dataclass(frozen=True, slots=True)
class Score:
    """What a model says of a pair.

    Attributes:
        log_probability: natural log of the target's probability after the context; 0 for no target.
        is_greedy: whether every id of the target was the most probable.
    """

    log_probability: float
    is_greedy: bool


def score(
    model: Model,
    pairs: Sequence[Pair],
    batch_size: int,
    on_scored: Callable[[int], object] | None = None,
) -> list[Score]:
    """Score pairs, each from the empty state, those of like length together.

    Args:
        model: any loaded model.
        pairs: in any order.
        batch_size: rows that pass the model together; changes the scores by rounding only.
        on_scored: told the number of pairs in each batch when it is done.

    Returns:
        A score for each pair, in their order.

    Raises:
        InputError: for a context without ids, or ids that are not in the vocabulary.
    """
    if not all(pair.context for pair in pairs):
        raise InputError(
            "a context has no ids, and without one nothing is predicted; begin it with an id, "
            "such as 0"
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
    """The score of one target as it grows."""

    def __init__(self, target: Sequence[int]) -> None:
        self._target = target
        self._scored = 0
        self.log_probability = 0.0
        self.is_greedy = True

    @property
    def is_done(self) -> bool:
        """Whether all of the target was scored."""
        return self._scored == len(self._target)

    def next_ids(self, limit: int) -> Sequence[int]:
        """What the model reads next: from the last scored id on, without the target's last one."""
        first = self._scored - 1
        return self._target[first : min(first + limit, len(self._target) - 1)]

    def add(self, logits: Tensor) -> None:
        """Score the next ids with the logits (T, V) before each."""
        wanted = self._target[self._scored : self._scored + len(logits)]
        if not wanted:  # an empty target
            return
        ids = torch.tensor(wanted, device=logits.device)
        logs = torch.log_softmax(logits, dim=-1).gather(1, ids[:, None])[:, 0]
        self.log_probability += sum(logs.tolist())
        self.is_greedy &= bool((logits.argmax(dim=-1) == ids).all())
        self._scored += len(wanted)


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Rows as (B, T), padded on the right with id 0, and their lengths."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    if width > WIDTH_STEP:
        width += -width % WIDTH_STEP
    else:
        width = 1 << (width - 1).bit_length()
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]), lengths
