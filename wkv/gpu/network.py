"""A network on a GPU, with the interface of the networks of `wkv.models`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from wkv.errors import BusyError, StateError, first_line
from wkv.gpu.graphs import Capture, CudaCapture, DecodeGraphs, call_again
from wkv.gpu.rows import PackedRows, Step
from wkv.gpu.slot_layers import SlotLayers
from wkv.gpu.slots import FIRST_COUNT, Slot, SlotPool, SlotUsage
from wkv.gpu.unsupported import free_bytes
from wkv.models.parts import Config, Skeleton
from wkv.models.state import LayerState

LOOKED_UP = ("emb.weight", "s_emb.weight")
"""Suffixes of the names of tables, of which a token needs one row."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class NetworkWeights:
    """The weights of a network, as far as users of a model see them.

    Attributes:
        config: the generation and the sizes.
        n_bytes: size of all weights that a token needs: all but lookup tables.
        tensors: returns the weights by their official names.
    """

    config: Config
    n_bytes: int
    tensors: Callable[[], Mapping[str, Tensor]]

    @staticmethod
    def of_modules(network: Skeleton) -> "NetworkWeights":
        """Describe the weights of PyTorch's modules."""
        tensors = network.state_dict()
        n_bytes = sum(
            tensor.nbytes for name, tensor in tensors.items() if not name.endswith(LOOKED_UP)
        )
        return NetworkWeights(network.config, n_bytes, network.state_dict)


class GpuNetwork:
    """A network whose states lie in slots on a device, and whose decode steps are CUDA graphs.

    Calls from several threads run one after the other.

    Attributes:
        engine: the name of this engine, "cuda".
        config: the generation and the sizes.
        weight_bytes: size of all weights that a token needs: all but lookup tables.
        pool: the states.
        graphs: the captured decode steps.
    """

    engine = "cuda"

    def __init__(
        self,
        step: Step,
        weights: NetworkWeights,
        empty: Sequence[LayerState],
        *,
        room: Callable[[], int] | None = None,
        capture: Capture | None = None,
        first_count: int = FIRST_COUNT,
    ) -> None:
        """Create a network.

        Args:
            step: runs packed rows.
            weights: what is known of the weights.
            empty: the empty state of one row, on the device of the step. That is a CUDA device; on
                a CPU, everything but graphs works, for tests.
            room: returns the bytes that more slots may take; None is the free memory of the device
                without RESERVED_BYTES.
            capture: captures decode steps; None captures CUDA graphs.
            first_count: number of slots at the beginning.
        """
        self.config: Any = weights.config
        self.weight_bytes = weights.n_bytes
        self._weights = weights
        self._device = device = empty[0].wkv.device
        self._step = step
        self.pool = SlotPool(empty, room or (lambda: free_bytes(device)), first_count)
        if capture is None:
            capture = CudaCapture(device) if device.type == "cuda" else call_again
        self.graphs = DecodeGraphs(step, capture, _notice)

    @property
    def kernels(self) -> str:
        """The device, what computes on it, and whether decode steps are graphs."""
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        graphs = "" if self.graphs.failure else " in CUDA graphs"
        return f"{name}, {self._step.kernels}{graphs}"

    def __call__(
        self, ids: Tensor, layers: Sequence[LayerState], lengths: Tensor | None = None
    ) -> tuple[Tensor, SlotLayers]:
        """Return the residual stream (B, T, D) of ids (B, T) after a state, and the new state.

        Args:
            ids: (B, T) int64.
            layers: the state; it is not changed.
            lengths: (B,) int64 in main memory, the number of real tokens of each row.
        """
        batch, width = ids.shape
        counts = [width] * batch if lengths is None else lengths.tolist()
        real = [row for row, count in enumerate(counts) if count]
        with self.pool.lock, torch.no_grad():
            old = self._slots_of(layers)
            if not real:
                X = torch.zeros(batch, width, self.config.n_embd, device=self._device)
                return X, SlotLayers(self.pool, old)
            read = [old[row] for row in real]
            packed = ids if lengths is None else ids[torch.arange(width) < lengths[:, None].cpu()]
            new, X = self._run_rows(packed.flatten(), [counts[row] for row in real], read)
        slots = list(old)
        for row, slot in zip(real, new, strict=True):
            slots[row] = slot
        if lengths is None:
            return X.view(batch, width, -1), SlotLayers(self.pool, slots)
        padded = X.new_zeros(batch, width, X.shape[1])
        padded[(torch.arange(width) < lengths[:, None].cpu()).to(self._device)] = X
        return padded, SlotLayers(self.pool, slots)

    def step(self, ids: Tensor, layers: Sequence[LayerState]) -> tuple[Tensor, SlotLayers]:
        """Read one token in each row, by a captured graph.

        Args:
            ids: (B,) integers, in main memory or on the device.
            layers: the state; it is not changed.

        Returns:
            Logits (B, V) float32, which belong to the caller, and the new state.
        """
        with self.pool.lock, torch.no_grad():
            old = self._slots_of(layers)

            def run() -> tuple[Tensor, list[Slot]]:
                read, new, write = self._places(old)
                return self.graphs(ids, read, write, self.pool.slots).clone(), new

            logits, new = self._with_memory(run)
        return logits, SlotLayers(self.pool, new)

    def logits(self, X: Tensor) -> Tensor:
        """Convert a residual stream (..., D) to logits (..., V) float32."""
        return self.exclusively(lambda: self._step.logits(X))

    def exclusively(self, run: Callable[[], Result]) -> Result:
        """Run something on the device while no other call of this network runs.

        Raises:
            BusyError: if memory does not suffice.
        """
        with self.pool.lock, torch.no_grad():
            return self._with_memory(run)

    def new_layers(self, batch: int) -> SlotLayers:
        """Return the empty state for `batch` rows, which share one slot."""
        return SlotLayers(self.pool, [self.pool.empty] * batch)

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the weights by their official names."""
        return self._weights.tensors()

    def rehearse(self) -> None:
        """Run a decode step and a short prompt, so that kernels are compiled or fail now."""
        ids = torch.zeros(1, 3, dtype=torch.int64)
        self.logits(self(ids, self.new_layers(1))[0])
        self.step(ids[:, 0], self.new_layers(1))

    @property
    def slot_usage(self) -> SlotUsage:
        """The memory of states."""
        return self.pool.usage

    def _slots_of(self, layers: Sequence[LayerState]) -> Sequence[Slot]:
        """Return the slots of a state; one that lies elsewhere is copied into slots."""
        if isinstance(layers, SlotLayers) and layers.pool is self.pool:
            return layers.slots
        if len(layers) != self.config.n_layer:
            raise StateError(
                f"the state has {len(layers)} layers, this model has {self.config.n_layer}"
            )
        try:
            return self._with_memory(lambda: self.pool.adopt(layers))
        except RuntimeError as error:  # tensors without values, or of another shape
            raise StateError(
                f"the state is on {layers[0].wkv.device} and cannot be moved to {self._device} "
                f"({error}); read the text again"
            ) from error

    def _places(self, old: Sequence[Slot]) -> tuple[list[int], list[Slot], list[int]]:
        """Return the numbers of old slots, as many new slots, and their numbers."""
        self.pool.numbers(old)
        new = self.pool.take(len(old), keep=old)
        return self.pool.numbers(old), new, self.pool.numbers(new)

    def _run_rows(
        self, ids: Tensor, counts: Sequence[int], old: Sequence[Slot]
    ) -> tuple[list[Slot], Tensor]:
        """Run packed ids (R,); return the new states, and the residual stream (R, D)."""
        device = self._device
        begin = torch.tensor([0, *counts]).cumsum(0)
        sequence = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

        def run() -> tuple[list[Slot], Tensor]:
            read, new, write = self._places(old)
            rows = PackedRows(
                sequence=_int32(sequence, device),
                begin=_int32(begin, device),
                read=_int32(torch.tensor(read), device),
                write=_int32(torch.tensor(write), device),
                counts=tuple(counts),
                slots=self.pool.slots,
            )
            return new, self._step.hidden(ids.to(device), rows)

        return self._with_memory(run)

    def _with_memory(self, run: Callable[[], Result]) -> Result:
        """Run something; if the device's memory does not suffice, free what can be freed and retry.

        Raises:
            BusyError: if it does not suffice then either.
        """
        try:
            return run()
        except torch.OutOfMemoryError:
            pass  # the exception refers to tensors, which are deleted after this block
        self.graphs.clear()
        torch.cuda.empty_cache()
        try:
            return run()
        except torch.OutOfMemoryError as error:
            raise BusyError(
                f"the memory of {self._device} does not suffice for this call "
                f"({first_line(error)}); use fewer rows at once, or try again later"
            ) from None


def _int32(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers.to(torch.int32).to(device)


def _notice(text: str) -> None:
    logging.getLogger(__name__).warning("%s", text)
