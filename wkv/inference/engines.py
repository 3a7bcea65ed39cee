"""The interface of the engines that run a model, and the names of what computes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from wkv.models.layer_state import Layers, LayerState
from wkv.models.strategy import Strategy


class Network(Protocol):
    """The interface of a network that computes; see `wkv.models.parts.Skeleton`."""

    @property
    def config(self) -> Any:
        """The generation and the sizes."""
        ...

    def __call__(
        self, ids: Tensor, layers: Sequence[LayerState], lengths: Tensor | None = None
    ) -> tuple[Tensor, Layers]:
        """Return the residual stream (B, T, D) of ids (B, T) after a state, and the new state."""
        ...

    def logits(self, X: Tensor) -> Tensor:
        """Return the logits (..., V) float32 of a residual stream (..., D)."""
        ...

    def new_layers(self, batch: int) -> Layers:
        """Return the empty state for `batch` rows."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Return the weights by their official names."""
        ...


@runtime_checkable
class StepNetwork(Network, Protocol):
    """A network with a faster call for one token in each row, such as `wkv.gpu`'s."""

    def step(self, ids: Tensor, layers: Sequence[LayerState]) -> tuple[Tensor, Layers]:
        """Return the logits (B, V) after ids (B,), which belong to the caller, and the state."""
        ...


class Engine(Network, Protocol):
    """The interface of an engine: `wkv.native.network.NativeNetwork`, `wkv.gpu.network.GpuNetwork`.

    Attributes:
        engine: its name.
        weight_bytes: bytes of weights that one token reads if no zeros are skipped.
    """

    engine: str
    weight_bytes: int

    @property
    def kernels(self) -> str:
        """The name of what computes, for users."""
        ...


def kernels_of(strategy: Strategy) -> str:
    """Return what computes the layers of a strategy in PyTorch: instruction set and GPU names."""
    names = {
        "cpu": lambda _: torch.backends.cpu.get_cpu_capability().lower(),
        "cuda": torch.cuda.get_device_name,
    }
    devices = dict.fromkeys(layer.device for layer in strategy.layers)
    return " + ".join(
        names[device.type](device) if device.type in names else device.type for device in devices
    )
