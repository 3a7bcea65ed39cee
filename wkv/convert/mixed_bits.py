"""Choose which matrices are int8 in a file whose others are int4.

A matrix causes the more loss by int4, the larger the KL divergence is when it alone is int4 and all
others are int8. The matrices are ordered by this divergence per byte that int8 adds, and the first
of them become int8: as many as an average of bits allows, or as few as a limit of the divergence
needs.

Mixtures need no kernels of their own, and older versions read them; int5 and int6 would lose less
at the same size. KL divergence of the built-in model in nats per token, on 1,600 tokens of
`wkv/evaluate/passage.txt`; in the first row all matrices were rounded to the nearest value of one
format (simulated in float32), in the second they are calibrated int4 and int8:

    bits per weight     4.5      5.5      6.5
    one format          0.0221   0.0050   0.0013
    mixture             0.0150   0.0076   0.0038

Each bit more divides the divergence by four, because it halves the errors of the weights. So int5
and int6 are worth building for quality. They are missing because each needs a kernel for every CPU
level and for GPUs, and older versions cannot read such files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wkv.checkpoint.packing import Format, Packed
from wkv.errors import InputError

Matrices = Mapping[str, Packed]

SMALLEST_BITS, LARGEST_BITS = Format.int4.bits, Format.int8.bits


@dataclass(frozen=True)
class Candidates:
    """The two forms of each matrix that may be int4 or int8, by official name.

    Attributes:
        small: every matrix of the model in the smallest form.
        large: the int8 form of each matrix that is int4 in `small`.
    """

    small: Matrices
    large: Matrices

    def with_int8(self, names: Sequence[str]) -> dict[str, Packed]:
        """Return all matrices, those of the given names in int8."""
        return {**self.small, **{name: self.large[name] for name in names}}

    def bits(self, names: Sequence[str]) -> float:
        """Return the average bits per weight, scales included, with the given names in int8."""
        chosen = set(names)
        weights = {name: one.outputs * one.inputs for name, one in self.large.items()}
        bits = (
            count * (LARGEST_BITS if name in chosen else SMALLEST_BITS)
            for name, count in weights.items()
        )
        return sum(bits) / sum(weights.values())


def order_by_loss(
    candidates: Candidates,
    divergence: Callable[[Matrices], float],
    on_done: Callable[[int, int], object] = lambda done, total: None,
) -> list[str]:
    """Return the names of the matrices in the order in which they should become int8.

    Args:
        candidates: the forms of the matrices.
        divergence: measures the loss of a model with the given matrices, compared with the model
            in which all of them are int8.
        on_done: called with the number of measured matrices and their total number.
    """
    gains = {}
    for name, large in candidates.large.items():
        small = candidates.small[name]
        others = [other for other in candidates.large if other != name]
        loss = divergence(candidates.with_int8(others))
        gains[name] = loss / (large.data.nbytes - small.data.nbytes)
        on_done(len(gains), len(candidates.large))
    return sorted(gains, key=lambda name: -gains[name])


def within_bits(candidates: Candidates, order: Sequence[str], bits: float) -> list[str]:
    """Return the names that become int8 so that the average is at most `bits` per weight."""
    chosen: list[str] = []
    for name in order:
        if candidates.bits([*chosen, name]) <= bits:
            chosen.append(name)
    return chosen


def within_divergence(
    candidates: Candidates, order: Sequence[str], limit: float, measure: Callable[[Matrices], float]
) -> list[str]:
    """Return the fewest first names of the order that must be int8 for a divergence of `limit`.

    Args:
        candidates: the forms of the matrices.
        order: the names in the order of `order_by_loss`.
        limit: largest divergence from the original model.
        measure: measures this divergence for a model with the given matrices.

    Raises:
        InputError: if the divergence is larger even if all matrices are int8.
    """
    if measure(candidates.with_int8([])) <= limit:
        return []
    least = measure(candidates.with_int8(order))
    if not least <= limit:
        raise InputError(
            f"with all matrices in int8 the KL divergence is {least:.2g} nats per token, more than "
            f"the limit of {limit:g}; nothing was saved, raise the limit or keep the original"
        )
    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if measure(candidates.with_int8(order[:middle])) <= limit:
            enough = middle
        else:
            too_few = middle
    return list(order[:enough])
