"""The parameters of sampling, and the memory that each sequence needs for it.

`wkv.inference.sample_batch` samples a token for many sequences at once.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.inference.noise import NoiseKey

UNCOUNTED = " \t0123456789"
"""Tokens whose text is part of this string get no frequency penalty: blanks and digits recur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling parameters.

    Attributes:
        temperature: randomness. Above 1 flattens the distribution, below 1 sharpens it; 0 always
            takes the most probable token.
        top_p: keep the most probable tokens whose probabilities add up to this value, before
            temperature. 1 keeps all tokens, 0 only the most probable one.
        top_k: keep at most this many tokens; 0 means no limit.
        presence_penalty: subtracted once from the logit of every token generated before.
        frequency_penalty: subtracted for each earlier occurrence, times its weight, which decays
            by penalty_decay.
        penalty_decay: factor per token, 0 to 1.
        seed: the same seed gives the same tokens, on every device up to rounding; None is random.
        banned: ids that are never sampled.
        count_digits: apply the frequency penalty to blanks and digits too, as in ChatRWKV's chat.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    presence_penalty: float = 0.2
    frequency_penalty: float = 0.2
    penalty_decay: float = 0.996
    seed: int | None = None
    banned: tuple[int, ...] = ()
    count_digits: bool = False

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, math.inf)
        _check("top_p", self.top_p, 0, 1)
        _check("top_k", self.top_k, 0, math.inf, whole=True)
        _check("presence_penalty", self.presence_penalty, -math.inf, math.inf)
        _check("frequency_penalty", self.frequency_penalty, -math.inf, math.inf)
        _check("penalty_decay", self.penalty_decay, 0, 1)
        if self.seed is not None:
            _check("seed", self.seed, -(2**63), 2**64 - 1, whole=True)
        if not isinstance(self.banned, tuple) or not all(type(i) is int for i in self.banned):
            raise InputError(f"banned is {self.banned!r}, expected a tuple of ids")

    def with_seed(self) -> "Sampling":
        """Return these parameters with a seed; without one, a random seed of 63 bits is drawn."""
        return self if self.seed is not None else replace(self, seed=secrets.randbits(63))


def _check(name: str, value: float, low: float, high: float, *, whole: bool = False) -> None:
    """Raise unless low <= value <= high and the value is a finite number of the right kind."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        kind = "a whole number" if whole else "a finite number"
        raise InputError(f"{name} is {value!r}, expected {kind}")
    if not low <= value <= high:
        limits = f"from {low} to {high}" if math.isfinite(high) else f"at least {low}"
        raise InputError(f"{name} is {value}, expected a number {limits}")


class TokenCounts:
    """Decaying counts of the tokens of a sequence.

    Attributes:
        size: the number of different ids.
    """

    def __init__(self, decay: float) -> None:
        """All counts are multiplied by `decay` when a token is added."""
        self.size = 0
        self._decay = decay
        self._slots: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.empty(64, np.float64)

    @property
    def ids(self) -> np.ndarray:
        """The ids (size,) int64, in the order of their first appearance."""
        return self._ids[: self.size]

    @property
    def counts(self) -> np.ndarray:
        """The counts (size,) float64 of these ids."""
        return self._counts[: self.size]

    def copy(self) -> "TokenCounts":
        """Return independent counts with the same values."""
        other = TokenCounts(self._decay)
        other.size, other._slots = self.size, dict(self._slots)
        other._ids, other._counts = self._ids.copy(), self._counts.copy()
        return other

    def add(self, token: int, count: float) -> None:
        """Let all counts decay, then add to the count of a token."""
        self._counts[: self.size] *= self._decay
        slot = self._slots.setdefault(token, self.size)
        if slot == self.size:
            if slot == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])
            self._ids[slot], self._counts[slot] = token, 0.0
            self.size += 1
        self._counts[slot] += count


@dataclass(slots=True)
class Sampler:
    """The memory of one sequence that is being sampled.

    Attributes:
        sampling: the sampling parameters; without a seed, one is drawn here.
        choice: the number of the choice in the response; choices get different tokens.
        position: the number of tokens sampled so far.
        counts: decaying counts of these tokens.
    """

    sampling: Sampling
    choice: int = 0
    position: int = 0
    counts: TokenCounts = field(init=False)

    def __post_init__(self) -> None:
        self.sampling = self.sampling.with_seed()
        self.counts = TokenCounts(self.sampling.penalty_decay)

    @property
    def seed(self) -> int:
        """The seed in use."""
        assert self.sampling.seed is not None
        return self.sampling.seed

    @property
    def noise_key(self) -> NoiseKey:
        """The key of the random numbers of the next token."""
        return NoiseKey(self.seed % 2**64, self.choice, self.position)

    def copy(self) -> "Sampler":
        """Return an independent sampler that goes on in the same way."""
        other = Sampler(self.sampling, self.choice, self.position)
        other.counts = self.counts.copy()
        return other

    def record(self, token: int, text: str) -> None:
        """Count a sampled token.

        Blanks and digits have a count of 0 unless `count_digits` is set; the presence penalty
        applies to them.
        """
        self.position += 1
        is_counted = self.sampling.count_digits or text not in UNCOUNTED
        self.counts.add(token, 1.0 if is_counted else 0.0)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability, before penalties and temperature."""

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A sampled token, its logprob, and the most probable alternatives."""

    token: int
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()


def with_logprobs(logits: Tensor, tokens: Sequence[int], count: int) -> list[SampledToken]:
    """Return the logprob of each of T tokens, and the `count` most probable ones, from (T, V)."""
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs[torch.arange(len(tokens)), torch.tensor(tokens, dtype=torch.long)].tolist()
    values, ids = (part.tolist() for part in logprobs.topk(count))
    return [
        SampledToken(token, logprob, tuple(map(TokenLogprob, top, value)))
        for token, logprob, top, value in zip(tokens, chosen, ids, values, strict=True)
    ]
