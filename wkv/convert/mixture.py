"""Models with int4 and int8 matrices that are not in a file yet, and the choice between them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from wkv.checkpoint.layouts.packed import with_packed
from wkv.checkpoint.packing import Format, Packed
from wkv.checkpoint.weights import Weights
from wkv.convert.mixed_bits import (
    LARGEST_BITS,
    SMALLEST_BITS,
    Candidates,
    Matrices,
    order_by_loss,
    within_bits,
    within_divergence,
)
from wkv.errors import InputError
from wkv.inference.describe import Description, identity
from wkv.inference.load import build_model, strategy_for
from wkv.inference.model import Model

OnStep = Callable[[str, int, int], object]
"""A function of the name of a stage, the number of its finished parts, and their total number."""

Measure = Callable[[Model, Model], float]
"""A function that measures the KL divergence of a model from another, in nats per token."""

WINDOWS, WIDTH = 8, 64
"""Number and length of the pieces of text on which each matrix is measured."""


@dataclass(frozen=True)
class Limit:
    """The limit of an int4 file in which the most sensitive matrices are int8; one is given.

    Attributes:
        bits: average bits per weight of the matrices that are int4 or int8, scales included. All
            int4 is 4.5, all int8 is 8.5.
        max_kl: largest KL divergence from the original model, in nats per token.
        measure: measures the divergence; None: on the text of `choose_on`.
        choose_on: returns the ids of a text on which the sensitivity of the matrices is measured;
            None: the text to calibrate on. A text that was not calibrated on is better.
    """

    bits: float | None = None
    max_kl: float | None = None
    measure: Measure | None = None
    choose_on: Callable[[Model], Sequence[int]] | None = None

    def check(self, to: str) -> None:
        """Raise an InputError if the limit is out of range or not for this format."""
        if (self.bits is None) == (self.max_kl is None):
            raise InputError("a limit is either bits or max_kl; give one of them")
        if to != "int4":
            raise InputError(f"a limit chooses between int4 and int8; {to} was given, use int4")
        if self.bits is not None and not SMALLEST_BITS <= self.bits <= LARGEST_BITS:
            raise InputError(
                f"bits is {self.bits:g}, expected {SMALLEST_BITS:g} (all matrices in int4) to "
                f"{LARGEST_BITS:g} (all in int8)"
            )
        if self.max_kl is not None and not self.max_kl >= 0:
            raise InputError(f"max_kl is {self.max_kl:g}, expected 0 or more")


class Mixture:
    """A model whose matrices may be int4 or int8.

    Attributes:
        candidates: both forms of the matrices.
    """

    def __init__(
        self,
        description: Description,
        small: Matrices,
        before: Model,
        pieces: Sequence[Sequence[int]],
    ) -> None:
        """Quantize to int8 each matrix that is int4 in `small`; `before` is the original model."""
        self._description, self._before = description, before
        self._strategy = strategy_for(description, "cpu int4")
        int8 = strategy_for(description, "cpu int8")
        weights = Weights(description.checkpoint, description.shapes, int8)
        large = {
            name: weights.packed(name)
            for name, matrix in small.items()
            if matrix.format is Format.int4
        }
        self.candidates = Candidates(small, large)
        self._ids = _windows([id for piece in pieces for id in piece], before.config.vocab_size)

    def names_in_int8(self, limit: Limit, on_step: OnStep) -> list[str]:
        """Return the names of the matrices that become int8.

        Raises:
            InputError: if the limit of the divergence cannot be kept.
        """
        best = self._logprobs(self.candidates.with_int8(list(self.candidates.large)))
        order = order_by_loss(
            self.candidates,
            lambda matrices: _divergence(best, self._logprobs(matrices)),
            partial(on_step, "measuring matrices"),
        )
        if limit.bits is not None:
            return within_bits(self.candidates, order, limit.bits)
        assert limit.max_kl is not None
        measure = limit.measure or self._measure
        return within_divergence(
            self.candidates,
            order,
            limit.max_kl,
            lambda matrices: measure(self._before, self._model(matrices)),
        )

    def _model(self, matrices: Matrices) -> Model:
        described = in_memory(self._description, matrices, str(self._strategy))
        return build_model(described, self._strategy)

    def _logprobs(self, matrices: Matrices) -> Tensor:
        logits = self._model(matrices).forward(self._ids, all_logits=True)[0]
        return logits.log_softmax(-1)

    def _measure(self, before: Model, after: Model) -> float:
        p, q = (model.forward(self._ids, all_logits=True)[0].cpu() for model in (before, after))
        return _divergence(p.log_softmax(-1), q.log_softmax(-1))


def in_memory(
    description: Description, matrices: Mapping[str, Packed], strategy: str
) -> Description:
    """Describe a quantized model without a file."""
    checkpoint = replace(description.checkpoint, identity=identity(description))
    return replace(description, checkpoint=with_packed(checkpoint, matrices.get, strategy))


def _divergence(p: Tensor, q: Tensor) -> float:
    """Return the mean KL divergence of logprobs q from p, (..., V), in nats per token."""
    total = F.kl_div(q, p, reduction="sum", log_target=True)
    return float(total) / p[..., 0].numel()


def _windows(ids: Sequence[int], vocab_size: int) -> Tensor:
    """Return at most WINDOWS pieces from all over a text, or random ids if it is too short."""
    count = min(WINDOWS, len(ids) // WIDTH)
    if count == 0:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(vocab_size, (WINDOWS, WIDTH), generator=generator)
    step = len(ids) // count
    return torch.tensor([ids[start * step : start * step + WIDTH] for start in range(count)])
