"""Measurement of speculative decoding on texts that are forced as the model's choice.

The model computes as always, but each sampled token is that of a recorded text. So drafts are
accepted as on this text, whatever the model would write, and random models can be measured too.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.bench.inputs import text_for
from wkv.errors import TokenizerError
from wkv.inference.decode import RunningBatch
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import DraftCounts, RunningSequence
from wkv.inference.speculation import Speculation

FEWEST, MOST, SECONDS = 24, 128, 2.0
"""Least and largest length of the texts of `wkv bench`, and the time in which one is decoded."""

MAX_ROUNDS = 3

LETTERS = 12
"""Number of different ids in the text in which no draft is ever right."""


@dataclass(frozen=True)
class ForcedText:
    """A logits processor that makes a text the only choice.

    Attributes:
        ids: the text.
    """

    ids: Sequence[int]

    def __call__(self, logits: Tensor, sampled: Sequence[int]) -> Tensor:
        """Return logits (V,) in which all ids but the next one of the text are minus infinity."""
        forced = logits.new_full(logits.shape, -torch.inf)
        forced[self.ids[len(sampled)]] = 0.0
        return forced


@dataclass(frozen=True)
class DraftText:
    """A text that is decoded with drafts.

    Attributes:
        name: a description.
        ids: the text.
        context: the text before it, which drafts are taken from.
    """

    name: str
    ids: tuple[int, ...]
    context: tuple[int, ...] = ()


@dataclass(frozen=True)
class DraftResult:
    """The measurements of one text.

    Attributes:
        text: its description.
        speed: tokens per second with drafts, relative to plain decoding in the same round; the
            median of the rounds.
        tokens_per_second: with drafts, the median of the rounds.
        tokens_per_pass: tokens of a pass on average.
        drafted, accepted: drafts that were read, and those that were right.
    """

    text: str
    speed: float
    tokens_per_second: float
    tokens_per_pass: float
    drafted: int
    accepted: int


def decode_forced(
    model: Model, text: DraftText, speculation: Speculation | None
) -> tuple[float, DraftCounts]:
    """Decode a text that is forced; returns the seconds, and the passes and drafts."""
    greedy = Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
    forced = ForcedText(text.ids)
    sequence = RunningSequence(model.tokenizer, greedy, len(text.ids), (), forced)
    if speculation is not None:
        sequence.drafter = speculation.drafter(text.context)
    batch: RunningBatch[RunningSequence] = RunningBatch(model, speculation)
    _, state = model.forward([1], None)
    batch.add([sequence], [state])
    begun = time.perf_counter()
    while batch.sequences:
        for event in batch.sample():
            if event.error is not None:
                raise event.error
        batch.forward()
        batch.remove(batch.complete())
    return time.perf_counter() - begun, sequence.draft_counts


def never_repeated(count: int) -> list[int]:
    """Return ids in which every id occurs often, but no pair of ids twice.

    So a draft that continues the last occurrence of an id is always wrong.
    """
    ids, used = [1], set[tuple[int, int]]()
    while len(ids) < count:
        last = ids[-1]
        free = [one for one in range(1, LETTERS + 1) if (last, one) not in used]
        if not free:
            break
        used.add((last, free[-1]))
        ids.append(free[-1])
    return ids


def texts_for(
    model: Model, tokens_per_second: float, *, with_model: bool = False
) -> tuple[DraftText, ...]:
    """Return the texts of `wkv bench`; none if the model has no tokenizer.

    Args:
        model: the model.
        tokens_per_second: the speed of plain decoding, which determines their length.
        with_model: whether a draft model drafts, so that a text without repetitions is of interest.
    """
    try:
        _ = model.tokenizer
    except TokenizerError:
        return ()
    count = max(FEWEST, min(MOST, round(SECONDS * tokens_per_second)))
    text = tuple(text_for(model).ids[:count].tolist())
    new = (DraftText("a new text", text),) if with_model else ()
    return (
        *new,
        DraftText("a repeated text", text, context=text),
        DraftText("drafts that are all wrong", tuple(never_repeated(count))),
    )


def measure_drafts(
    model: Model,
    texts: Sequence[DraftText],
    speculation: Speculation,
    *,
    rounds: int,
    on_turn: Callable[[str], None] = lambda name: None,
) -> tuple[DraftResult, ...]:
    """Decode each text plainly and with drafts, in alternation, after a warm-up round.

    At most MAX_ROUNDS rounds are measured.
    """
    rounds = min(rounds, MAX_ROUNDS)
    seconds: dict[str, list[tuple[float, float]]] = {text.name: [] for text in texts}
    counts: dict[str, DraftCounts] = {}
    for number in range(rounds + 1):
        for text in texts:
            on_turn(text.name)
            plain, _ = decode_forced(model, text, None)
            drafted, counts[text.name] = decode_forced(model, text, speculation)
            if number > 0:
                seconds[text.name].append((plain, drafted))
    return tuple(
        DraftResult(
            text.name,
            statistics.median(plain / drafted for plain, drafted in seconds[text.name]),
            len(text.ids) / statistics.median(drafted for _, drafted in seconds[text.name]),
            counts[text.name].tokens_per_pass,
            counts[text.name].drafted,
            counts[text.name].accepted,
        )
        for text in texts
    )
