"""Comparison of a model before and after its weights were changed, on the same text.

    difference   of logits, largest and mean, over all tokens and the whole vocabulary
    kl           mean over tokens of  sum over ids of p (ln p - ln q),  p before and q after
    unchanged    share of the tokens after which both models predict the same token
    nats         -ln of the probability of each next token, mean; bits per byte from the same sum

The text is read from the empty state as one sequence. If no tokenizer is known, random ids are
used, and bits per byte are not available. Bits per byte hide the damage by quantization: a change
is good for some tokens and bad for others. KL counts every change.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from wkv.errors import InputError, TokenizerError
from wkv.evaluate.intervals import Estimate, mean, share
from wkv.evaluate.lambada import begin_ids
from wkv.files import read_text
from wkv.inference.model import Model
from wkv.tokenizers import Tokenizer

PASSAGE = Path(__file__).with_name("passage.txt")
"""The end of `The Copper Beeches` by Arthur Conan Doyle, in the public domain (Project Gutenberg
1661). The built-in model was not trained on it."""

TOKENS = 1024
"""Default number of tokens of the text to read."""

LEAST_TOKENS = 16
"""Smallest number of tokens to predict; from fewer, no interval can be estimated."""

LOGITS_AT_ONCE = 2**23
"""Largest number of logits that each model computes in one call."""

ROUNDS, TURN = 5, 0.3
"""Number of speed measurements of each model, and seconds of one measurement."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models, before and after a change, on a text.

    Attributes:
        tokens: number of predicted tokens.
        largest_difference, mean_difference: absolute differences of the logits.
        kl: Kullback-Leibler divergence, in nats per token.
        unchanged: share of the tokens for which both models predict the same token.
        nats_per_token: loss of each model.
        bits_per_byte: bits per byte of each model; None if the ids are random.
    """

    tokens: int
    largest_difference: float
    mean_difference: float
    kl: Estimate
    unchanged: Estimate
    nats_per_token: tuple[float, float]
    bits_per_byte: tuple[float, float] | None


@dataclass
class _Sums:
    """Sums over the tokens that were compared so far, and the divergence of each token."""

    largest: float = 0.0
    difference: float = 0.0
    divergences: list[Tensor] = field(default_factory=list)
    same: int = 0
    before: float = 0.0
    after: float = 0.0

    def add(self, p: Tensor, q: Tensor, wanted: Tensor) -> None:
        """Add the logits (T, V) of both models, and the actual next tokens."""
        difference = (p - q).abs()
        self.largest = max(self.largest, float(difference.max()))
        self.difference += float(difference.mean(1, dtype=torch.float64).sum())
        self.same += int((p.argmax(1) == q.argmax(1)).sum())
        p, q = p.log_softmax(1), q.log_softmax(1)
        self.divergences.append((p.exp() * (p - q)).sum(1, dtype=torch.float64))
        self.before -= float(p.gather(1, wanted).sum(dtype=torch.float64))
        self.after -= float(q.gather(1, wanted).sum(dtype=torch.float64))


def passage(path: Path | None) -> str:
    """Read the text of a file, or the passage that comes with wkv.

    Raises:
        InputError: if it cannot be read.
    """
    file = PASSAGE if path is None else path
    text = read_text(file)
    if not text.strip():
        raise InputError(f"{file}: there is no text in it; use at least a few sentences")
    return text


def tokenizer_of(model: Model) -> Tokenizer | None:
    """Return a model's tokenizer, or None if none is known."""
    try:
        return model.tokenizer
    except TokenizerError:
        return None


def compare(
    before: Model,
    after: Model,
    ids: Sequence[int],
    on_read: Callable[[int, int], object] = lambda done, total: None,
) -> Comparison:
    """Read a text with both models and compare their predictions.

    Args:
        before, after: models with the same vocabulary.
        ids: the text, as `text_ids` returns it.
        on_read: called with the number of tokens read and their total number.
    """
    sums, total = _Sums(), len(ids) - 1
    step = max(1, min(256, LOGITS_AT_ONCE // before.config.vocab_size))
    state = other = None
    for start in range(0, total, step):
        piece = ids[start : min(start + step, total)]
        p, state = before.forward(piece, state, all_logits=True)
        q, other = after.forward(piece, other, all_logits=True)
        wanted = torch.tensor(ids[start + 1 : start + 1 + len(piece)])
        sums.add(p.cpu(), q.cpu(), wanted[:, None])
        on_read(start + len(piece), total)
    nats = sums.before, sums.after
    tokenizer = tokenizer_of(before)
    size = 0 if tokenizer is None else len(tokenizer.decode_bytes(list(ids[1:])))
    return Comparison(
        total,
        sums.largest,
        sums.difference / total,
        mean(torch.cat(sums.divergences)),
        share(sums.same, total),
        (nats[0] / total, nats[1] / total),
        (nats[0] / math.log(2) / size, nats[1] / math.log(2) / size) if size else None,
    )


def text_ids(model: Model, text: str, tokens: int) -> list[int]:
    """Return the ids of a text whose last `tokens` are to be predicted, or as many as there are.

    If no tokenizer is known, the ids are random.

    Raises:
        InputError: if there are fewer than LEAST_TOKENS.
    """
    return _checked(_ids(model, text, tokens + 1))


def two_parts(model: Model, text: str, tokens: int) -> tuple[list[int], list[int]]:
    """Return the ids of two parts of a text, the second of which follows the first.

    Each has `tokens` to be predicted; of a shorter text each is a half.

    Raises:
        InputError: if a part has fewer than LEAST_TOKENS.
    """
    ids = _ids(model, text, 2 * tokens + 2)
    middle = len(ids) // 2
    begin = begin_ids(model, "auto") if tokenizer_of(model) is not None else []
    return _checked(ids[:middle]), _checked([*begin, *ids[middle:]][: tokens + 1])


def _checked(ids: list[int]) -> list[int]:
    """Return the ids, of which all but the first are predicted, if there are enough."""
    if len(ids) <= LEAST_TOKENS:
        raise InputError(
            f"the text has {max(0, len(ids) - 1)} tokens to predict, expected at least "
            f"{LEAST_TOKENS}; give a longer text"
        )
    return ids


def _ids(model: Model, text: str, count: int) -> list[int]:
    """Return at most `count` ids of a text, or random ids if no tokenizer is known."""
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        ids: list[int] = torch.randint(
            model.config.vocab_size, (count,), generator=generator
        ).tolist()
        return ids
    # No token is longer than 128 characters, so the rest of the text need not be tokenized.
    return [*begin_ids(model, "auto"), *tokenizer.encode(text[: 128 * count])][:count]


def decode_speeds(before: Model, after: Model, ids: Sequence[int]) -> tuple[float, float]:
    """Measure the decoding speed of both models in alternation; returns medians in tokens/s.

    The models read a text rather than arbitrary ids, because the text determines how many weights
    are skipped as their inputs are zero.
    """
    models = before, after
    states = [model.forward([0])[1] for model in models]
    speeds: tuple[list[float], list[float]] = [], []
    for turn in range(ROUNDS + 1):
        for place, model in enumerate(models):
            begun, count = time.perf_counter(), 0
            while (spent := time.perf_counter() - begun) < TURN or count < 2:
                _, states[place] = model.forward([ids[count % len(ids)]], states[place])
                count += 1
            if turn > 0:  # the first round is a warm-up
                speeds[place].append(count / spent)
    return statistics.median(speeds[0]), statistics.median(speeds[1])
