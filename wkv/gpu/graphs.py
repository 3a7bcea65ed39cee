"""Decode steps for fixed numbers of rows, captured as CUDA graphs when they are first needed.

A step of PyTorch's modules launches thousands of kernels, for which the host needs longer than the
device needs to compute. A graph launches all of them at once. It reads its inputs from fixed
addresses, so a smaller batch is filled up with rows that go from the empty state to a spare slot.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from wkv.errors import first_line
from wkv.gpu.rows import EMPTY_SLOT, SPARE_SLOT, PackedRows, Slots, Step

SMALL_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of rows for which steps are captured; larger ones are multiples of the last of these."""

WARM_UPS = 2
"""Runs before a capture: kernels are compiled, and libraries allocate their memory."""

Run = Callable[[], Tensor]
"""Runs a step on its fixed inputs; returns its fixed output."""


class Capture(Protocol):
    """Turns a step into one that is launched at once."""

    def __call__(self, run: Run) -> Run:
        """Return a function that does what `run` does, with the same tensors.

        Raises:
            RuntimeError: if the step cannot be captured.
        """
        ...


class CudaCapture:
    """Captures CUDA graphs, which share one pool of memory.

    Their outputs may overlap, so an output is valid until the next graph is launched.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, run: Run) -> Run:
        """Capture a step, after runs that warm it up on another stream."""
        current = torch.cuda.current_stream(self._device)
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                run()
        current.wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = run()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def call_again(run: Run) -> Run:
    """Replace the capture on a CPU: the step is called for each token."""
    return run


def graph_size(rows: int) -> int:
    """Return the number of rows of the smallest graph for a number of rows."""
    if rows <= SMALL_SIZES[-1]:
        return SMALL_SIZES[bisect_left(SMALL_SIZES, rows)]
    return -(-rows // SMALL_SIZES[-1]) * SMALL_SIZES[-1]


class DecodeGraphs:
    """One captured step for each number of rows.

    Attributes:
        capture: captures steps, and whatever else shares their memory.
        failure: why steps run without graphs; None if they are captured.
    """

    def __init__(self, step: Step, capture: Capture, report: Callable[[str], None]) -> None:
        """Create graphs; `report` is called once if a step cannot be captured."""
        self.failure: str | None = None
        self._step = step
        self.capture = capture
        self._report = report
        self._sizes: dict[int, FixedStep] = {}
        self._slots: Slots | None = None

    @property
    def sizes(self) -> list[int]:
        """The numbers of rows for which steps were captured."""
        return sorted(self._sizes)

    def __call__(
        self, ids: Tensor, read: Sequence[int], write: Sequence[int], slots: Slots
    ) -> Tensor:
        """Run a step of one row for each sequence.

        Args:
            ids: (n,) integers, in main memory or on the device.
            read, write: the slots of each sequence.
            slots: the states; a graph is captured again after they moved.

        Returns:
            Logits (n, V) float32, valid until the next call.
        """
        if slots is not self._slots:
            self._sizes.clear()
            self._slots = slots
        size = graph_size(len(read))
        fixed = self._sizes.get(size)
        if fixed is None:
            fixed = self._sizes[size] = FixedStep(self._step, size, slots)
            self._try_capture(fixed)
        return fixed(ids, read, write)

    def clear(self) -> None:
        """Free the memory of all graphs; they are captured again when they are needed."""
        self._sizes.clear()

    def _try_capture(self, fixed: "FixedStep") -> None:
        if self.failure is not None:
            return
        try:
            fixed.run = self.capture(fixed.run)
        except torch.OutOfMemoryError:
            self._sizes.clear()
            raise
        except RuntimeError as error:
            self.failure = first_line(error)
            self._report(
                f"the decode step could not be captured as a CUDA graph ({self.failure}); it runs "
                "without, which is slower"
            )


class FixedStep:
    """A decode step with inputs at fixed addresses.

    Attributes:
        run: runs the step.
    """

    def __init__(self, step: Step, size: int, slots: Slots) -> None:
        device = slots.device
        self._inputs = torch.empty(3, size, dtype=torch.int32, device=device)
        numbers = torch.arange(size + 1, dtype=torch.int32, device=device)
        ids, read, write = self._inputs
        self._rows = PackedRows(numbers[:-1], numbers, read, write, (1,) * size, slots)
        self.run: Run = lambda: step(ids.long(), self._rows)
        self._fill(torch.zeros(0, dtype=torch.int32), (), ())

    def __call__(self, ids: Tensor, read: Sequence[int], write: Sequence[int]) -> Tensor:
        """Run the step; see `DecodeGraphs.__call__`."""
        self._fill(ids, read, write)
        return self.run()[: len(read)]

    def _fill(self, ids: Tensor, read: Sequence[int], write: Sequence[int]) -> None:
        """Copy the inputs to the device, in one copy, without waiting for it."""
        device, size = self._inputs.device, self._inputs.shape[1]
        padding = size - len(read)
        known = ids.tolist() if ids.device.type == "cpu" else [0] * len(read)
        numbers = [
            [*known, *[0] * padding],
            [*read, *[EMPTY_SLOT] * padding],
            [*write, *[SPARE_SLOT] * padding],
        ]
        # PyTorch reuses pinned memory only after the copies from it have ended.
        pinned = device.type == "cuda"
        self._inputs.copy_(
            torch.tensor(numbers, dtype=torch.int32, pin_memory=pinned), non_blocking=True
        )
        if ids.device.type != "cpu":
            self._inputs[0, : len(read)].copy_(ids)
