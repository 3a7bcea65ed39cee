"""Sample the next token from logits, in the order of ChatRWKV.

    penalties -> banned tokens -> softmax -> top_p -> top_k -> temperature -> sample

Temperature is applied last, to the remaining probabilities: p^(1/temperature). The functions here
know neither models nor text.

Source: `rwkv` package, utils.py, with two fixes: top_p = 1 keeps all tokens, and logits are never
changed in place.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.ops.torch_settings import thread_limit

PARTIAL_SORTS = (256, 4096)
"""top_p looks at this many of the most probable tokens before it sorts all of them."""

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
        seed: the same seed gives the same tokens; None is random.
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


def _check(name: str, value: float, low: float, high: float, *, whole: bool = False) -> None:
    """Raise unless low <= value <= high and the value is a finite number of the right kind."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        kind = "a whole number" if whole else "a finite number"
        raise InputError(f"{name} is {value!r}, expected {kind}")
    if not low <= value <= high:
        limits = f"from {low} to {high}" if math.isfinite(high) else f"at least {low}"
        raise InputError(f"{name} is {value}, expected a number {limits}")


@dataclass(slots=True)
class Sampler:
    """Samples the tokens of one sequence; it holds the random numbers and earlier tokens.

    Attributes:
        sampling: the sampling parameters.
        weights: decaying count of each id, in the order of first appearance.
    """

    sampling: Sampling
    weights: dict[int, float] = field(default_factory=dict)
    _random: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = torch.Generator()
        if self.sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(self.sampling.seed)

    def sample(self, logits: Tensor) -> int:
        """Sample the next token from logits (V,), which are not changed."""
        with thread_limit(1):  # the work is done before a second thread would wake up
            return self._sample(logits)

    def _sample(self, logits: Tensor) -> int:
        sampling = self.sampling
        logits = penalized(logits, self.weights, sampling)
        if sampling.banned:
            logits = banned(logits, sampling.banned)
        try:
            return sample(
                logits,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                random=self._random,
            )
        except InputError as error:
            if sampling.banned and bool((logits == -torch.inf).all()):
                what = "all ids are banned, so no token can be sampled; ban fewer"
                raise InputError(what) from error
            raise

    def record(self, token: int, text: str) -> None:
        """Count a sampled token; earlier counts decay first.

        Blanks and digits have a count of 0 unless `count_digits` is set; the presence penalty
        applies to them.
        """
        for known in self.weights:
            self.weights[known] *= self.sampling.penalty_decay
        weight = 1.0 if self.sampling.count_digits or text not in UNCOUNTED else 0.0
        self.weights[token] = self.weights.get(token, 0.0) + weight


def penalized(logits: Tensor, weights: Mapping[int, float], sampling: Sampling) -> Tensor:
    """Subtract presence_penalty + weight * frequency_penalty from the logits of counted tokens."""
    if not weights or not (sampling.presence_penalty or sampling.frequency_penalty):
        return logits
    ids = torch.tensor(list(weights), device=logits.device)
    counts = torch.tensor(list(weights.values()), device=logits.device)
    penalty = sampling.presence_penalty + counts * sampling.frequency_penalty
    return logits.index_add(0, ids, -penalty.to(logits.dtype))


def banned(logits: Tensor, ids: Iterable[int]) -> Tensor:
    """Return logits (V,) in which those of `ids` are minus infinity."""
    numbers = list(ids)
    if min(numbers) < 0 or max(numbers) >= len(logits):
        raise InputError(f"banned ids must be 0 to {len(logits) - 1}, {numbers} were given")
    chosen = torch.tensor(numbers, device=logits.device)
    return logits.index_fill(0, chosen, -torch.inf)


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    random: torch.Generator | None = None,
) -> int:
    """Sample a token.

        p = softmax(logits) ; cutoff = the sorted p at which the sum first reaches top_p
        p <- p where p >= cutoff ; p <- the top_k largest ; p <- p^(1/temperature) ; sample

    Args:
        logits: (V,) float, not changed.
        temperature, top_p, top_k: as in `Sampling`; temperature 0 is the argmax.
        random: source of random numbers, on the CPU.

    Returns:
        The token's id.

    Raises:
        InputError: if the logits contain NaN, or no token is left.
    """
    if temperature == 0:
        largest, token = logits.max(dim=-1)
        _check_finite(largest)
        return int(token)
    probabilities = torch.softmax(logits.float(), dim=-1).cpu()
    _check_finite(probabilities[0])
    kept, ids = _nucleus(probabilities, top_p)
    if 0 < top_k < len(kept):
        kept, ids = kept[:top_k], ids[:top_k]
    if temperature != 1:
        # Relative to the largest, so that small probabilities to a high power do not all vanish.
        kept = (kept / kept[0]) ** (1 / temperature)
    return int(ids[torch.multinomial(kept, 1, generator=random)])


def _check_finite(value: Tensor) -> None:
    if not bool(torch.isfinite(value)):
        raise InputError(
            "the logits are not finite (NaN or infinity), so no token can be sampled; the model "
            "overflowed or its file is damaged: try the strategy 'cpu fp32'"
        )


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the probabilities that top_p keeps, largest first, and their ids.

    Tokens that are as probable as the last one kept are kept too.
    """
    size = len(probabilities)
    if top_p >= 1:
        largest, ids = probabilities.sort(descending=True, stable=True)
        return largest, ids
    for look in (*PARTIAL_SORTS, size):
        largest, ids = probabilities.topk(min(look, size))
        reached = torch.nonzero(largest.cumsum(0) >= top_p)
        if len(reached) == 0:
            continue
        kept = largest >= largest[reached[0]]
        if look < size and bool(kept[-1]):
            continue  # equally probable tokens may follow
        return largest[kept], ids[kept]
    return largest, ids  # rounding kept the sum below top_p: nothing is cut


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


def with_logprobs(logits: Tensor, token: int, count: int) -> SampledToken:
    """Return the logprob of a token and the `count` most probable tokens, from logits (V,)."""
    logprobs = logits.float().log_softmax(-1)
    values, ids = logprobs.topk(count)
    top = tuple(map(TokenLogprob, ids.tolist(), values.tolist()))
    return SampledToken(token, float(logprobs[token]), top)
