"""Sample tokens with random numbers that depend only on a seed, a choice, a position and an id.

    r = word (id mod 4) of Philox4x32-10, key = seed, counter = (id div 4, position, choice, 0)
    E = -log1p(-(r + 1/2) / 2^32)              exponentially distributed
    token = the id with the smallest E / p     ties: the lowest id

The probability of a token is p / sum(p). The token does not depend on other rows, on the device, or
on the order of the ids. So a stream can be resumed, and two models that share the noise tend to
sample the same token, which speculative decoding needs.

Sources: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox); the minimum of
exponential variables with rates p has the distribution p.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wkv.native.library import library, missing_reason

LOW = 0xFFFFFFFF
MULTIPLY = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

CLOSEST_TO_ONE = 1 - 2.0**-24
"""The largest float32 below 1; (r + 1/2) / 2^32 rounds to 1 without this limit."""


@dataclass(frozen=True)
class NoiseKey:
    """The numbers that determine the noise of one token.

    Attributes:
        seed: 0 to 2^64 - 1.
        choice: the number of the choice among those of its prompt.
        position: the number of tokens that were sampled before.
    """

    seed: int
    choice: int
    position: int


def race(p: Tensor, keys: Sequence[NoiseKey]) -> Tensor:
    """Sample a token for each row.

    Args:
        p: (R, V) float32, at least 0, at least one of each row above 0; not normalized.
        keys: one for each row.

    Returns:
        (R,) int64, on the device of `p`.
    """
    if p.device.type == "cpu" and missing_reason() is None:
        return _race_native(p.contiguous(), keys)
    return race_torch(p, keys)


def _race_native(p: Tensor, keys: Sequence[NoiseKey]) -> Tensor:
    # PyTorch's unsigned type cannot be built from ints; a signed one has the same bits.
    seeds = torch.tensor([_signed(key.seed) for key in keys])
    choices = torch.tensor([key.choice for key in keys])
    positions = torch.tensor([key.position for key in keys])
    tokens = torch.empty(len(p), dtype=torch.int64)
    library().wkv_race(
        *p.shape,
        p.data_ptr(),
        seeds.data_ptr(),
        choices.data_ptr(),
        positions.data_ptr(),
        tokens.data_ptr(),
    )
    return tokens


def _signed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed


def race_torch(p: Tensor, keys: Sequence[NoiseKey]) -> Tensor:
    """Sample as `race` does, with tensor operations only, on any device."""
    ids = torch.arange(p.shape[1], device=p.device)
    return winner(exponential(keys, p.shape[1], p.device), p, ids)


def winner(noise: Tensor, p: Tensor, ids: Tensor) -> Tensor:
    """Return the id (R,) with the smallest noise / p of each row, the lowest one if some are equal.

    Args:
        noise, p: (R, n).
        ids: (n,) or (R, n) int64.
    """
    quotients = noise / p  # x / 0 is infinity and never wins
    smallest = quotients.amin(1, keepdim=True)
    return torch.where(quotients == smallest, ids, torch.iinfo(torch.int64).max).amin(1)


def exponential(keys: Sequence[NoiseKey], vocab: int, device: torch.device) -> Tensor:
    """Return the noise E of all ids, (R, V): float64 on the CPU, float32 on other devices."""
    return exponential_of_all(key_numbers(keys).to(device), vocab)


def key_numbers(keys: Sequence[NoiseKey]) -> Tensor:
    """Return the numbers of keys, (R, 4) int64 below 2^32: position, choice, two of the seed."""
    numbers = [[key.position, key.choice, key.seed & LOW, key.seed >> 32] for key in keys]
    return torch.tensor(numbers, dtype=torch.int64).view(-1, 4)


def exponential_of_all(numbers: Tensor, vocab: int) -> Tensor:
    """Return the noise (R, V) of all ids for the numbers (R, 4) of keys."""
    blocks = torch.arange(-(-vocab // 4), device=numbers.device).expand(len(numbers), -1)
    return _exponential(_words(numbers, blocks).flatten(1)[:, :vocab])


def exponential_of(numbers: Tensor, ids: Tensor) -> Tensor:
    """Return the noise (R, n) of some ids (R, n) int64 for the numbers (R, 4) of keys."""
    words = _words(numbers, ids.div(4, rounding_mode="floor"))
    return _exponential(words.gather(-1, (ids % 4)[..., None]).squeeze(-1))


def _words(numbers: Tensor, blocks: Tensor) -> Tensor:
    """Return the words (R, n, 4) of blocks (R, n) of four ids."""
    position, choice, *seed = numbers.unsqueeze(-1).unbind(1)
    return philox((blocks, position, choice, torch.zeros_like(blocks)), (seed[0], seed[1]))


def _exponential(words: Tensor) -> Tensor:
    if words.device.type == "cpu":
        u = (words.double() + 0.5) / 2**32
    else:
        u = ((words.float() + 0.5) / 2**32).clamp(max=CLOSEST_TO_ONE)
    return -torch.log1p(-u)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """Return the four words of Philox4x32-10, (..., 4) int64, for counters and keys below 2^32."""
    a, b, c, d = counter
    key_a, key_b = key
    for _ in range(ROUNDS):
        # The product may exceed 2^63. Its low 64 bits are right, and `& LOW` removes the sign.
        x, y = a * MULTIPLY[0], c * MULTIPLY[1]
        a, b = ((y >> 32) & LOW) ^ b ^ key_a, y & LOW
        c, d = ((x >> 32) & LOW) ^ d ^ key_b, x & LOW
        key_a, key_b = (key_a + WEYL[0]) & LOW, (key_b + WEYL[1]) & LOW
    shape = (a + b + c + d).shape
    return torch.stack([word.expand(shape) for word in (a, b, c, d)], -1)
