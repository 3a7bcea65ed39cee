"""Conversion between a `wkv.State` and the state of the `rwkv` package, a flat list of tensors.

    generation 4        att shift (D,), numerator, denominator, exponent (A,), ffn shift (D,)
    generations 5, 6    att shift (D,), wkv (H, key, value), ffn shift (D,)
    generation 7, 7a    att shift (D,), wkv (H, value, key), ffn shift (D,)

Shifts have the activation dtype of their layer, all other tensors are float32. The conversion
returns views if possible. This is safe because wkv never changes the tensors of a state in place,
and stores no reference to them.

Source: `rwkv` package, model.py.
"""

import torch
from torch import Tensor

from wkv.errors import StateError
from wkv.inference.model import Model
from wkv.models.state import LayerState, State

PARTS_4: tuple[str, ...] = ("att shift", "numerator", "denominator", "exponent", "ffn shift")
PARTS: tuple[str, ...] = ("att shift", "wkv", "ffn shift")


class FlatStates:
    """A converter for the states of one model.

    Attributes:
        parts: names of the tensors of a layer, in order.
        shapes: shapes of the tensors of a layer.
    """

    def __init__(self, model: Model) -> None:
        config = model.config
        self._model = model
        self._places = [model.strategy.layers[layer] for layer in range(config.n_layer)]
        self._is_transposed = config.generation in ("5.0", "5.1", "5.2", "6")
        self.parts = PARTS_4 if config.generation == "4" else PARTS
        self.shapes = tuple(tuple(item.shape) for item in self._of_layer(model.new_state(), 0))

    def flatten(self, state: State) -> list[Tensor]:
        """Convert a state of one row to a list, which shares memory with it."""
        return [item for index in range(len(self._places)) for item in self._of_layer(state, index)]

    def restore(self, flat: list[Tensor]) -> State:
        """Convert a list to a state of one row, which shares memory with it.

        The list may contain floats of any dtype and device.

        Raises:
            StateError: if the list is not a state of this model; names the wrong item.
        """
        self._check(flat)
        size = len(self.parts)
        layers = []
        for number, place in enumerate(self._places):
            own = [
                tensor.detach().to(place.device, torch.float32)
                for tensor in flat[number * size : (number + 1) * size]
            ]
            inner = self._inner_to_state(own[1:-1])
            layers.append(LayerState(own[0][None], inner[None], own[-1][None]))
        return State(tuple(layers), (0,), self._model.config.generation, self._model.identity)

    def _of_layer(self, state: State, index: int) -> list[Tensor]:
        """Return the list items of one layer."""
        layer, dtype = state.layers[index], self._places[index].dtype
        wkv = layer.wkv[0]
        if self.parts is PARTS_4:
            return [layer.att_shift[0].to(dtype), *wkv, layer.ffn_shift[0].to(dtype)]
        wkv = wkv.mT if self._is_transposed else wkv
        return [layer.att_shift[0].to(dtype), wkv, layer.ffn_shift[0].to(dtype)]

    def _inner_to_state(self, inner: list[Tensor]) -> Tensor:
        """Return (3, A) or (H, value, key) from the list items between the shifts of a layer."""
        if self.parts is PARTS_4:
            return torch.stack(inner)
        return inner[0].mT if self._is_transposed else inner[0]

    def _check(self, flat: list[Tensor]) -> None:
        """Raise a StateError unless it is a list of the right tensors."""
        layers, size = len(self._places), len(self.parts)
        if not isinstance(flat, list):
            raise StateError(
                f"the state is a {type(flat).__name__}, expected a list of tensors or None; pass "
                "the state that forward returned"
            )
        if len(flat) != layers * size:
            raise StateError(
                f"the state has {len(flat)} items, expected {layers * size}: {size} for each of "
                f"the {layers} layers of this RWKV-{self._model.config.generation}; pass a state "
                "of this model, or None"
            )
        for index, item in enumerate(flat):
            shape = self.shapes[index % size]
            if isinstance(item, Tensor) and item.is_floating_point() and item.shape == shape:
                continue
            found = type(item).__name__
            if isinstance(item, Tensor):
                found = f"{item.dtype} of shape {tuple(item.shape)}"
            raise StateError(
                f"item {index} of the state ({self.parts[index % size]} of layer {index // size}) "
                f"is {found}, expected floats of shape {shape}; pass a state of this model, or None"
            )
