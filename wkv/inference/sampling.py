"""From logits to the next token, in the order that RWKV's users know from ChatRWKV.

    penalise -> ban -> softmax -> nucleus (top_p) -> top_k -> temperature -> draw

Temperature acts last, on the probabilities that are left: p^(1/temperature). Functions here know
no model and no text.

Source: `rwkv` package, utils.py, with its defects mended: top_p = 1 keeps all tokens there too,
and logits are never changed in place.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.ops.torch_settings import at_most

LOOKS = (256, 4096)
"""The nucleus is looked for among so many most probable tokens before all are sorted."""

UNCOUNTED = " \t0123456789"
"""A token whose text is part of this string gets no frequency penalty: blanks and digits recur."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: above 1 flattens, below 1 sharpens; 0 takes the most probable token.
        top_p: the nucleus: the most probable tokens that together reach this probability, before
            temperature. 1 keeps all, 0 only the most probable.
        top_k: at most so many tokens; 0 is no limit.
        presence_penalty: taken once from the logit of each token generated before.
        frequency_penalty: taken for each time, times its weight, which fades by penalty_decay.
        penalty_decay: factor per token in (0, 1].
        seed: the same seed gives the same tokens; None differs each time.
        banned: ids that are never drawn.
        count_digits: blanks and digits get the frequency penalty too, as in ChatRWKV's chat.
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
    """Draws one sequence's tokens: its random numbers, and what it has drawn before.

    Attributes:
        sampling: how to draw.
        weights: id to its fading count, in the order of first appearance.
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

    def draw(self, logits: Tensor) -> int:
        """The next token from logits (V,), which are not changed."""
        with at_most(1):  # all is done before a second thread would wake up
            return self._drawn(logits)

    def _drawn(self, logits: Tensor) -> int:
        sampling = self.sampling
        logits = penalised(logits, self.weights, sampling)
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
                what = "all ids are banned, so no token can be drawn; ban fewer"
                raise InputError(what) from error
            raise

    def record(self, token: int, text: str) -> None:
        """Count a token that was drawn; all counts fade first.

        Blanks and digits count nothing, unless `count_digits`, but are present from then on.
        """
        for known in self.weights:
            self.weights[known] *= self.sampling.penalty_decay
        weight = 1.0 if self.sampling.count_digits or text not in UNCOUNTED else 0.0
        self.weights[token] = self.weights.get(token, 0.0) + weight


def penalised(logits: Tensor, weights: Mapping[int, float], sampling: Sampling) -> Tensor:
    """Logits (V,) less presence_penalty + weight * frequency_penalty for each token in weights."""
    if not weights or not (sampling.presence_penalty or sampling.frequency_penalty):
        return logits
    ids = torch.tensor(list(weights), device=logits.device)
    counts = torch.tensor(list(weights.values()), device=logits.device)
    penalty = sampling.presence_penalty + counts * sampling.frequency_penalty
    return logits.index_add(0, ids, -penalty.to(logits.dtype))


def banned(logits: Tensor, ids: Iterable[int]) -> Tensor:
    """Logits (V,) with those of `ids` at minus infinity."""
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
    """Draw a token.

        p = softmax(logits) ; cutoff = sorted p where the sum first reaches top_p
        p <- p where p >= cutoff ; p <- the top_k largest ; p <- p^(1/temperature) ; draw

    Args:
        logits: (V,) float, not changed.
        temperature, top_p, top_k: as in `Sampling`; temperature 0 is the argmax.
        random: source of random numbers, on the CPU.

    Returns:
        The token's id.

    Raises:
        InputError: if the logits hold NaN, or nothing is left to draw from.
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
            "the logits are not finite (NaN or infinity), so no token can be drawn; the model "
            "overflowed or its file is damaged: try the strategy 'cpu fp32'"
        )


def _nucleus(probabilities: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The kept probabilities, largest first, and their ids; ties with the cutoff are kept."""
    size = len(probabilities)
    if top_p >= 1:
        largest, ids = probabilities.sort(descending=True, stable=True)
        return largest, ids
    for look in (*LOOKS, size):
        largest, ids = probabilities.topk(min(look, size))
        reached = torch.nonzero(largest.cumsum(0) >= top_p)
        if len(reached) == 0:
            continue
        kept = largest >= largest[reached[0]]
        if look < size and bool(kept[-1]):
            continue  # ties with the cutoff may go on beyond the first look
        return largest[kept], ids[kept]
    return largest, ids  # rounding kept the sum below top_p: nothing is cut
