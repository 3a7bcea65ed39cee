"""Adapters that each row of a batch chooses, computed beside the matrices of the base model.

For a row that uses an adapter, a product y = W x becomes y + B (A x), in float32. B contains the
scale. The weights of the base stay as they are, packed or not, and serve all rows.

Only LoRA and MiSS of matrices have this form: DoRA and Bat change all weights of a row, and whole
tensors are read in other ways. Such adapters can be merged when the model is loaded.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from wkv.adapters.changes import Change, LowRank, Miss
from wkv.adapters.open import Adapter
from wkv.errors import CheckpointError, StrategyError
from wkv.models.parts import Linear
from wkv.models.strategy.products import Product

NONE = -1
"""The number of a row without an adapter."""


@dataclass(frozen=True)
class Pair:
    """The factors of a change of a matrix.

    Attributes:
        A: (r, in) float32.
        B: (out, r) float32, multiplied by the scale.
    """

    A: Tensor
    B: Tensor


class RowAdapters:
    """Several adapters of one model, and which of them the rows of the present call use.

    Attributes:
        identities: the name of each adapter, in order, and the identity of the model with it.
        pairs: official name of a matrix to the factors of each adapter, in the same order.
    """

    def __init__(
        self, identities: Mapping[str, str], pairs: Mapping[str, Sequence[Pair | None]]
    ) -> None:
        self.identities = dict(identities)
        self.pairs = pairs
        self._numbers = {identity: number for number, identity in enumerate(identities.values())}
        self._chosen = _Chosen()

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The adapter of each row, as a position in `identities` or `NONE`; None if no row has one.

        Each thread has its own choice.
        """
        return self._chosen.numbers

    @contextmanager
    def choose(self, identities: Sequence[str]) -> Iterator[None]:
        """Choose the adapters of the rows of the calls in this context, in this thread.

        Args:
            identities: the entries of `State.adapters` of all rows; "" means no adapter.
        """
        numbers = tuple(self._numbers.get(identity, NONE) for identity in identities)
        before = self._chosen.numbers
        self._chosen.numbers = numbers if any(number != NONE for number in numbers) else None
        try:
            yield
        finally:
            self._chosen.numbers = before


class _Chosen(threading.local):
    numbers: tuple[int, ...] | None = None


def row_adapters(
    adapters: Mapping[str, Adapter],
    identities: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> RowAdapters:
    """Prepare adapters for rows that choose among them.

    Args:
        adapters: the adapters by name, opened for the model.
        identities: the identity of the model with each of them.
        shapes: official name to shape of the model's tensors.

    Raises:
        CheckpointError: if a change cannot be computed beside its matrix.
    """
    names = {name for adapter in adapters.values() for name in adapter.changes}
    pairs = {
        name: [
            _pair(adapter, name, shapes[name]) if name in adapter.changes else None
            for adapter in adapters.values()
        ]
        for name in sorted(names)
    }
    return RowAdapters(identities, pairs)


def _pair(adapter: Adapter, name: str, shape: tuple[int, ...]) -> Pair:
    change: Change = adapter.changes[name]
    if name.startswith("blocks.") and name.endswith(".weight"):
        if isinstance(change, LowRank) and change.magnitude is None:
            return Pair(change.A.contiguous(), (change.B * change.scale).contiguous())
        if isinstance(change, Miss):
            rank, (outputs, inputs) = change.D.shape[0], shape
            A = torch.eye(rank).repeat(1, -(-inputs // rank))[:, :inputs]
            B = change.D.repeat(1, outputs // change.D.shape[1]).t()
            return Pair(A.contiguous(), B.contiguous())
    raise CheckpointError(
        f"{adapter.path}: the change of {name} cannot be chosen for each request, which only LoRA "
        "and MiSS of a layer's matrices can; load this adapter alone: --adapter PATH without a name"
    )


def add_to_network(network: nn.Module, rows: RowAdapters) -> None:
    """Let the matrices of a PyTorch network compute the adapters that the rows choose.

    Raises:
        StrategyError: if a matrix of the network is not a plain one.
    """
    for name, pairs in rows.pairs.items():
        module = network.get_submodule(name.removesuffix(".weight"))
        if not isinstance(module, Linear):
            raise StrategyError(
                f"{name} is stored as ChatRWKV's int8, beside which no adapter can be computed; "
                "use another strategy, or merge one adapter: --adapter PATH without a name"
            )
        module.product = AdaptedProduct(module.product, pairs, rows)


class AdaptedProduct:
    """A product of a matrix with inputs (B, ..., in), whose B rows may use adapters."""

    def __init__(self, product: Product, pairs: Sequence[Pair | None], rows: RowAdapters) -> None:
        self._product, self._pairs, self._rows = product, pairs, rows

    def __call__(self, x: Tensor, weight: Tensor, *dtype: torch.dtype) -> Tensor:
        """Return W x + B (A x) for the rows with an adapter, and W x for the others."""
        y = self._product(x, weight, *dtype)
        numbers = self._rows.numbers
        for number in sorted(set(numbers or ()) - {NONE}):
            pair = self._pairs[number]
            if pair is None:
                continue
            chosen = torch.tensor([one == number for one in numbers or ()], device=x.device)
            A, B = pair.A.to(x.device), pair.B.to(x.device)
            change = linear(linear(x[chosen].float(), A), B)
            y[chosen] = (y[chosen].float() + change).to(y.dtype)
        return y
