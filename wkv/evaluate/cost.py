"""Comparison of a model before and after its weights were changed, on the same text.

    difference   of logits, largest and mean, over all tokens and the whole vocabulary
    divergence   mean over tokens of  sum over ids of p (log2 p - log2 q),  p before and q after
    bits         -log2 of the probability of each next token, summed, per byte of the text

The text is read from the empty state as one sequence. If no tokenizer is known, random ids are
used, and bits per byte are not available.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.demo import VOCABULARY
from wkv.errors import InputError, TokenizerError
from wkv.evaluate.exercises import accuracy, questions
from wkv.evaluate.lambada import begin_ids
from wkv.files import read_text
from wkv.inference.model import Model
from wkv.tokenizers import Tokenizer
from wkv.tokenizers.world import WorldTokenizer

PASSAGE = Path(__file__).with_name("passage.txt")
"""The end of `The Copper Beeches` by Arthur Conan Doyle, in the public domain (Project Gutenberg
1661). The built-in model was not trained on it."""

TOKENS = 1024
"""Default number of tokens of the text to read."""

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
        divergence: Kullback-Leibler divergence, in bits per token.
        same_choice: share of the tokens for which both models predict the same token.
        bits_per_token: bits per token of each model.
        bits_per_byte: bits per byte of each model; None if the ids are random.
    """

    tokens: int
    largest_difference: float
    mean_difference: float
    divergence: float
    same_choice: float
    bits_per_token: tuple[float, float]
    bits_per_byte: tuple[float, float] | None


@dataclass
class _Sums:
    """Sums over the tokens that were compared so far."""

    largest: float = 0.0
    difference: float = 0.0
    divergence: float = 0.0
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
        self.divergence += float((p.exp() * (p - q)).sum(dtype=torch.float64)) / math.log(2)
        self.before -= float(p.gather(1, wanted).sum(dtype=torch.float64)) / math.log(2)
        self.after -= float(q.gather(1, wanted).sum(dtype=torch.float64)) / math.log(2)


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
    text: str,
    *,
    tokens: int = TOKENS,
    on_read: Callable[[int, int], object] = lambda done, total: None,
) -> Comparison:
    """Read a text with both models and compare their predictions.

    Args:
        before, after: models with the same vocabulary.
        text: text of at least two tokens.
        tokens: maximum number of tokens to predict.
        on_read: called with the number of tokens read and their total number.

    Raises:
        InputError: if the text is too short.
    """
    tokenizer = tokenizer_of(before)
    ids = _ids(before, text, tokens + 1)
    if len(ids) < 2:
        raise InputError("the text has fewer than two tokens, so nothing can be predicted")
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
    bits = sums.before, sums.after
    size = 0 if tokenizer is None else len(tokenizer.decode_bytes(ids[1:]))
    return Comparison(
        total,
        sums.largest,
        sums.difference / total,
        sums.divergence / total,
        sums.same / total,
        (bits[0] / total, bits[1] / total),
        (bits[0] / size, bits[1] / size) if size else None,
    )


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


def decode_speeds(before: Model, after: Model, text: str) -> tuple[float, float]:
    """Measure the decoding speed of both models in alternation; returns medians in tokens/s.

    The models read a text rather than arbitrary ids, because the text determines how many weights
    are skipped as their inputs are zero.
    """
    models, ids = (before, after), _ids(before, text, TOKENS)
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


@dataclass(frozen=True)
class _Examinee:
    """The adapter of a model to the interface of `exercises.accuracy`."""

    model: Model
    tokenizer: Tokenizer

    def logits(self, ids: Tensor) -> Tensor:
        """Return the logits (B, T, V) of ids (B, T)."""
        return self.model.forward(ids, all_logits=True)[0]


def knows_exercises(model: Model) -> bool:
    """Return whether a model has the vocabulary of the built-in model, which learned exercises."""
    tokenizer = tokenizer_of(model)
    if not isinstance(tokenizer, WorldTokenizer):
        return False
    return dict(tokenizer.entries) == dict(WorldTokenizer(VOCABULARY).entries)


def exercises(
    before: Model,
    after: Model,
    count: int,
    on_done: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[float, float, int]:
    """Measure the share of exercises that each model answers exactly.

    Args:
        before, after: models with the vocabulary of the built-in model.
        count: number of questions of each kind.
        on_done: called with the number of finished kinds and their total number.

    Returns:
        The share of each model, averaged over the kinds, and the number of questions.
    """
    sets = questions()
    shares: list[tuple[float, float]] = []
    for items in sets.values():
        some = items[:count]
        p, q = (accuracy(_Examinee(model, model.tokenizer), some) for model in (before, after))
        shares.append((p, q))
        on_done(len(shares), len(sets))
    ours, theirs = zip(*shares, strict=True)
    asked = sum(len(items[:count]) for items in sets.values())
    return sum(ours) / len(ours), sum(theirs) / len(theirs), asked
