"""The optimizer: Adam, and Muon for the matrices inside the blocks of a model trained from scratch.

Muon updates a matrix by its momentum, whose singular values are all set to about one:

    M <- momentum M + G
    W <- (1 - rate decay) W - rate 0.2 sqrt(max(rows, columns)) orthogonal(G + momentum M)

The factor makes the updates as large as those of Adam, so both use the same learning rate.

Sources: Muon, Keller Jordan's post of 2024 (the coefficients of the iteration); "Muon is scalable
for LLM training", arXiv 2502.16982 (the factor); RWKV-7's train_temp (which tensors decay, w0 twice
as fast, the betas of Adam).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MUON_SCALE = 0.2
TINY = 1e-12


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of the optimizer, except for the learning rate, which each step receives.

    Attributes:
        weight_decay: decoupled weight decay of all matrices.
        momentum: momentum of Muon.
        betas: decay rates of Adam's averages.
        clip: largest norm of the gradient; longer gradients are scaled down to it.
    """

    weight_decay: float = 0.1
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0


@dataclass(frozen=True)
class ProcessGroup:
    """This process's position in a group of processes that train together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        all_reduce: sums a tensor over all processes, in place.
    """

    rank: int = 0
    size: int = 1
    all_reduce: Callable[[Tensor], None] = lambda tensor: None


@dataclass(frozen=True)
class Trained:
    """A tensor that is trained, and how.

    Attributes:
        name: its name in checkpoints.
        parameter: the tensor.
        speed: its factor of the learning rate.
        decays: whether the weight decay applies to it.
        uses_muon: whether Muon updates it instead of Adam.
    """

    name: str
    parameter: nn.Parameter
    speed: float = 1.0
    decays: bool = False
    uses_muon: bool = False


class Optimizer:
    """The optimizer, which updates parameters in place from their `.grad`.

    The gradients must be the same in every process.
    """

    def __init__(
        self, trained: Iterable[Trained], settings: OptimizerSettings, group: ProcessGroup
    ) -> None:
        self.settings, self.group = settings, group
        self.step_count = 0
        self.parameters: list[nn.Parameter] = []
        matrices: dict[tuple[int, ...], list[nn.Parameter]] = {}
        self.adam: list[AdamTensor] = []
        for one in trained:
            self.parameters.append(one.parameter)
            if one.uses_muon:
                matrices.setdefault(tuple(one.parameter.shape), []).append(one.parameter)
            else:
                decay = settings.weight_decay if one.decays else 0.0
                self.adam.append(AdamTensor(one.parameter, one.speed, decay))
        self.muon = [MuonStack(stack) for stack in matrices.values()]

    @torch.no_grad()
    def step(self, learning_rate: float) -> float:
        """Clip the gradient, update every parameter, and return the norm before clipping.

        If the norm is not finite, no parameter is changed.
        """
        gradients = [gradient_of(parameter) for parameter in self.parameters]
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = float(torch.linalg.vector_norm(norms))
        if not math.isfinite(norm):
            return norm
        if norm > self.settings.clip:
            torch._foreach_mul_(gradients, self.settings.clip / norm)
        self.step_count += 1
        for tensor in self.adam:
            tensor.step(learning_rate, self.settings, self.step_count)
        for stack in self.muon:
            stack.step(learning_rate, self.settings, self.group)
        return norm

    def state(self) -> dict[str, Any]:
        """Return the state of the optimizer, with which `load_state` can continue exactly."""
        return {
            "step_count": self.step_count,
            "muon": [stack.momentum for stack in self.muon],
            "adam": [(tensor.mean, tensor.square) for tensor in self.adam],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.step_count = state["step_count"]
        for stack, momentum in zip(self.muon, state["muon"], strict=True):
            stack.momentum.copy_(momentum)
        for tensor, (mean, square) in zip(self.adam, state["adam"], strict=True):
            tensor.mean.copy_(mean)
            tensor.square.copy_(square)


class AdamTensor:
    """The Adam optimizer with decoupled weight decay for one tensor."""

    def __init__(self, parameter: nn.Parameter, speed: float, decay: float) -> None:
        self.parameter, self.speed, self.decay = parameter, speed, decay
        self.mean = torch.zeros_like(parameter, requires_grad=False)
        self.square = torch.zeros_like(parameter, requires_grad=False)

    def step(self, learning_rate: float, settings: OptimizerSettings, count: int) -> None:
        """Update the tensor; `count` is the number of this update, from 1."""
        gradient, (beta1, beta2) = gradient_of(self.parameter), settings.betas
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = (self.square / (1 - beta2**count)).sqrt_().add_(TINY)
        if self.decay:
            self.parameter.mul_(1 - learning_rate * self.decay)
        size = learning_rate * self.speed / (1 - beta1**count)
        self.parameter.addcdiv_(self.mean, deviation, value=-size)


class MuonStack:
    """The Muon optimizer for all matrices of one shape; processes share the orthogonalization."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.momentum = torch.zeros(len(parameters), *parameters[0].shape)
        self.scale = MUON_SCALE * math.sqrt(max(parameters[0].shape))

    def step(self, learning_rate: float, settings: OptimizerSettings, group: ProcessGroup) -> None:
        """Update every matrix of the stack."""
        gradient = torch.stack([gradient_of(parameter) for parameter in self.parameters])
        self.momentum.mul_(settings.momentum).add_(gradient)
        direction = gradient.add_(self.momentum, alpha=settings.momentum)
        update = torch.zeros_like(direction)
        mine = slice(group.rank, None, group.size)
        update[mine] = orthogonal(direction[mine])
        group.all_reduce(update)
        for parameter, change in zip(self.parameters, update, strict=True):
            parameter.mul_(1 - learning_rate * settings.weight_decay)
            parameter.add_(change, alpha=-learning_rate * self.scale)


def gradient_of(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter, which must exist."""
    assert parameter.grad is not None
    return parameter.grad


def orthogonal(matrices: Tensor) -> Tensor:
    """Set the singular values of each matrix to about one (0.7 to 1.2), in bfloat16.

        X <- a X + (b A + c A A) X,  A = X X^T, five times, beginning with X / |X|

    Args:
        matrices: (n, rows, columns) float32.

    Returns:
        The same shape, float32.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    X = (matrices.mT if is_tall else matrices).bfloat16()
    X = X / (torch.linalg.matrix_norm(X, keepdim=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        A = X @ X.mT
        X = a * X + (b * A + c * (A @ A)) @ X
    result: Tensor = (X.mT if is_tall else X).float()
    return result
