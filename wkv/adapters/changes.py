"""Changes of a tensor by an adapter, each as a merged weight and as a product without merging.

For y = W x with a matrix W (out, in), in float32:

    LowRank    W + scale B A; A (r, in), B (out, r)
               with a magnitude m (out): each row of it, rescaled to the norm m (DoRA)
    Miss       W[o, i] + D[i mod r, o]; D (r, out) (MiSS, before: DiSHA, Bone)
    Bat        W (I + D) + D in blocks of r x r; D (n, r, r), one matrix for each block of inputs
               (RWKV-PEFT) or of outputs (peft)
    Replaced   another tensor
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear, pad


class Change(Protocol):
    """The interface of a change of one tensor."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor of this shape can be changed."""
        ...

    def merged(self, weight: Tensor) -> Tensor:
        """Return the changed tensor in float32; `weight` is float32."""
        ...

    def product(self, x: Tensor, weight: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the changed product (..., out) of inputs (..., in) without merging.

        It is differentiable with respect to the tensors of the change.

        Args:
            x: (..., in), of the dtype in which the change is computed.
            weight: (out, in); unused by `LowRank` without magnitude and `Miss` if `y` is given.
            y: the product of the weight alone, (..., out), if it was computed already.
        """
        ...

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the values on which the change depends."""
        ...

    def describe(self) -> str:
        """Return the shape of the matrix that the change is for, for error messages."""
        ...


def row_norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each row of (out, in), as (out,)."""
    norms: Tensor = weight.norm(dim=1)
    return norms


def _base_product(x: Tensor, weight: Tensor, y: Tensor | None) -> Tensor:
    return linear(x, weight) if y is None else y


@dataclass(frozen=True)
class LowRank:
    """Adds scale B A; with a magnitude (out,), rows get this norm.

    Attributes:
        A: (r, in) float32.
        B: (out, r) float32.
        scale: the factor, usually alpha / r.
        magnitude: (out,) float32, or None.
    """

    A: Tensor
    B: Tensor
    scale: float
    magnitude: Tensor | None = None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the matrix is (out, in)."""
        rows = shape[:1] if self.magnitude is None else self.magnitude.shape
        return shape == (self.B.shape[0], self.A.shape[1]) and rows == shape[:1]

    def merged(self, weight: Tensor) -> Tensor:
        """Return W + scale B A, with rescaled rows if there is a magnitude."""
        changed = weight + self.scale * (self.B @ self.A)
        if self.magnitude is None:
            return changed
        return changed * (self.magnitude / row_norms(changed))[:, None]

    def product(self, x: Tensor, weight: Tensor, y: Tensor | None = None) -> Tensor:
        """Return W x + scale B (A x), rescaled if there is a magnitude.

        The norm of a row is constant in the gradient, as in the DoRA paper (arXiv 2402.09353, 4.3).
        """
        inner = linear(x, self.A.to(x.dtype))
        added: Tensor = self.scale * linear(inner, self.B.to(x.dtype))
        changed = _base_product(x, weight, y) + added
        if self.magnitude is None:
            return changed
        with torch.no_grad():
            norms = row_norms(weight + self.scale * (self.B @ self.A))
        return changed * (self.magnitude / norms)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return A, B, the scale and the magnitude."""
        values = (self.A, self.B, torch.tensor([self.scale]))
        return values if self.magnitude is None else (*values, self.magnitude)

    def describe(self) -> str:
        """Return (out, in)."""
        return str((self.B.shape[0], self.A.shape[1]))


@dataclass(frozen=True)
class Miss:
    """Adds D (r, out) float32, repeated over the blocks of r inputs."""

    D: Tensor

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the matrix has a row for each column of D, or a multiple (MiSS mini)."""
        return len(shape) == 2 and shape[0] % self.D.shape[1] == 0

    def merged(self, weight: Tensor) -> Tensor:
        """Return W[o, i] + D[i mod r, o]."""
        outputs, inputs = weight.shape
        rows = torch.arange(inputs) % self.D.shape[0]
        return weight + self._full(outputs)[rows].t()

    def product(self, x: Tensor, weight: Tensor, y: Tensor | None = None) -> Tensor:
        """Return W x plus D times the sum of the blocks of x, padded with zeros."""
        rank = self.D.shape[0]
        blocks = pad(x, (0, -x.shape[-1] % rank)).reshape(*x.shape[:-1], -1, rank)
        y = _base_product(x, weight, y)
        return y + blocks.sum(-2) @ self._full(y.shape[-1]).to(x.dtype)

    def _full(self, outputs: int) -> Tensor:
        return self.D.repeat(1, outputs // self.D.shape[1])

    def tensors(self) -> tuple[Tensor, ...]:
        """Return D."""
        return (self.D,)

    def describe(self) -> str:
        """Return the number of outputs."""
        return f"({self.D.shape[1]}, any)"


@dataclass(frozen=True)
class Bat:
    """Replaces each block W of r x r by W (I + D) + D.

    Attributes:
        D: (n, r, r) float32.
        of_inputs: whether there is one D for each block of inputs; otherwise of outputs.
    """

    D: Tensor
    of_inputs: bool

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether both sizes are multiples of r, and one is n r."""
        n, rank, _ = self.D.shape
        if len(shape) != 2 or any(size % rank for size in shape):
            return False
        return shape[1 if self.of_inputs else 0] == n * rank

    def merged(self, weight: Tensor) -> Tensor:
        """Return W (I + D) + D, block by block."""
        rank = self.D.shape[1]
        outputs, inputs = weight.shape
        blocks = weight.reshape(outputs // rank, rank, inputs // rank, rank).transpose(1, 2)
        D = self.D[None] if self.of_inputs else self.D[:, None]
        return (blocks + blocks @ D + D).transpose(1, 2).reshape(outputs, inputs)

    def product(self, x: Tensor, weight: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the product in blocks, without forming the whole matrix if D is of inputs."""
        if not self.of_inputs:
            return linear(x, self.merged(weight))
        rank = self.D.shape[1]
        parts = torch.einsum("nij,...nj->...ni", self.D, x.reshape(*x.shape[:-1], -1, rank))
        shared = parts.sum(-2).repeat(*[1] * (x.dim() - 1), weight.shape[0] // rank)
        return linear(x + parts.flatten(-2), weight) + shared

    def tensors(self) -> tuple[Tensor, ...]:
        """Return D."""
        return (self.D,)

    def describe(self) -> str:
        """Return n r and the side that it belongs to."""
        size = self.D.shape[0] * self.D.shape[1]
        return f"(any, {size})" if self.of_inputs else f"({size}, any)"


@dataclass(frozen=True)
class Replaced:
    """Replaces a whole tensor, such as a trained norm."""

    value: Tensor

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the tensor has this shape, apart from axes of size 1."""
        return [size for size in self.value.shape if size > 1] == [s for s in shape if s > 1]

    def merged(self, weight: Tensor) -> Tensor:
        """Return the new tensor."""
        return self.value.reshape(weight.shape)

    def product(self, x: Tensor, weight: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the product with the new matrix."""
        return linear(x, self.merged(weight))

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the new tensor."""
        return (self.value,)

    def describe(self) -> str:
        """Return the shape."""
        return str(tuple(self.value.shape))
