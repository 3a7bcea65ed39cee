"""The `rwkv` package's state, a flat list of tensors, from a `wkv.State` and back.

    generation 4        att shift (D,), numerator, denominator, exponent (A,), ffn shift (D,)
    generations 5, 6    att shift (D,), wkv (H, key, value), ffn shift (D,)
    generation 7, 7a    att shift (D,), wkv (H, value, key), ffn shift (D,)

Shifts are in the activation dtype of their layer, the rest is float32. Conversion makes views where
it can: wkv never changes a tensor of a state in place, and keeps none.

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
    """Converts the states of one model.

    Attributes:
        parts: what the tensors of a layer are, in order.
        shapes: their shapes.
    """

    def __init__(self, model: Model) -> None:
        config = model.config
        self._model = model
        self._places = [model.strategy.layers[layer] for layer in range(config.n_layer)]
        self._turned = config.generation in ("5.0", "5.1", "5.2", "6")
        self.parts = PARTS_4 if config.generation == "4" else PARTS
        self.shapes = tuple(tuple(item.shape) for item in self._of_layer(model.new_state(), 0))

    def flatten(self, state: State) -> list[Tensor]:
        """The list for a state of one row; shares memory with it."""
        return [item for index in range(len(self._places)) for item in self._of_layer(state, index)]

    def restore(self, flat: list[Tensor]) -> State:
        """The state of one row for a list, which may be made by hand; shares memory with it.

        Floats of any dtype and device will do.

        Raises:
            StateError: for anything but such a list; names the wrong item.
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
        """The tensors of one layer."""
        layer, dtype = state.layers[index], self._places[index].dtype
        wkv = layer.wkv[0]
        if self.parts is PARTS_4:
            return [layer.att_shift[0].to(dtype), *wkv, layer.ffn_shift[0].to(dtype)]
        wkv = wkv.mT if self._turned else wkv
        return [layer.att_shift[0].to(dtype), wkv, layer.ffn_shift[0].to(dtype)]

    def _inner_to_state(self, inner: list[Tensor]) -> Tensor:
        """(3, A) or (H, value, key), from what lies between the shifts of a layer."""
        if self.parts is PARTS_4:
            return torch.stack(inner)
        return inner[0].mT if self._turned else inner[0]

    def _check(self, flat: list[Tensor]) -> None:
        """Raise unless it is a list with the right tensors."""
        layers, size = len(self._places), len(self.parts)
        if not isinstance(flat, list):
            raise StateError(
                f"the state is a {type(flat).__name__}, expected a list of tensors or None; give "
                "what forward returned"
            )
        if len(flat) != layers * size:
            raise StateError(
                f"the state has {len(flat)} items, expected {layers * size}: {size} for each of "
                f"the {layers} layers of this RWKV-{self._model.config.generation}; give a state "
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
                f"is {found}, expected floats of shape {shape}; give a state of this model, or None"
            )
