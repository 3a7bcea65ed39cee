"""Pass a plan to the native engine and run it."""

import ctypes
from collections.abc import Sequence

from torch import Tensor

from wkv.checkpoint.packing import Packed
from wkv.errors import WKVError
from wkv.native import steps
from wkv.native.library import library
from wkv.native.plan import Inputs, Plan, Step
from wkv.native.steps import StepList, StepStruct


def phases(items: Sequence[Step]) -> list[int]:
    """Return the earliest phase of each step that respects all dependencies between steps.

    A step runs after the steps that write what it reads (read after write), and after the steps
    that read what it overwrites (write after read).
    """
    last_write: dict[int, int] = {}
    last_read: dict[int, int] = {}
    found = []
    for step in items:
        phase = max((last_write.get(id(rows), -1) + 1 for rows in step.reads), default=0)
        phase = max([phase, *(last_read.get(id(rows), -1) + 1 for rows in step.writes)])
        for rows in step.reads:
            last_read[id(rows)] = max(last_read.get(id(rows), -1), phase)
        for rows in step.writes:
            last_write[id(rows)] = phase
        found.append(phase)
    return found


class CompiledPlan:
    """A plan that the engine can run; it keeps alive the memory that the engine points to."""

    def __init__(self, plan: Plan, kernels: str, threads: int) -> None:
        self.kernels, self.threads = kernels, threads
        self._library = library()
        self._pointer = self._library.wkv_plan(kernels.encode(), threads)
        if not self._pointer:
            raise WKVError(
                f"the native engine cannot start: this CPU has no kernels {kernels!r}, or there "
                "is not enough memory"
            )
        self._memory = [*plan.vectors, *(matrix.data for matrix in plan.matrices)]
        self._library.wkv_widths(self._pointer, plan.X.width, plan.logits.width)
        for buffer in plan.buffers[steps.LOGITS_BUFFER + 1 :]:
            self._library.wkv_buffer(self._pointer, buffer.width)
        for inputs in plan.inputs:
            self._add_inputs(inputs)
        for vector in plan.vectors:
            self._library.wkv_vector(self._pointer, vector.data_ptr())
        for matrix in plan.matrices:
            self._add_matrix(matrix)
        for number, items in plan.steps.items():
            order = sorted(zip(phases(items), items, strict=True), key=lambda pair: pair[0])
            for phase, step in order:
                self._add_step(number, phase, step.struct)

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            self._library.wkv_plan_free(self._pointer)
            self._pointer = None

    def skip_zeros(self, skip: bool) -> None:
        """Set whether the weights of zero inputs are skipped if there is a single row."""
        self._library.wkv_skip_zeros(self._pointer, int(skip))

    def body(
        self,
        tokens: Tensor,
        X: Tensor,
        state: Tensor,
        new_state: Tensor,
        kept: Tensor | None = None,
        adapters: Tensor | None = None,
    ) -> None:
        """Pass rows through the layers.

        Args:
            tokens: (sequences,) int32, the number of rows of each sequence.
            X: (rows, D) float32, the embeddings; replaced by the residual stream.
            state, new_state: (L, 3) int64, the address of each `StatePart` of each layer.
            kept: the same for what `rewind` needs, which is written for each row if given.
            adapters: (sequences,) int32, the adapter of each sequence, negative for none.
        """
        result = self._library.wkv_body(
            self._pointer,
            len(tokens),
            tokens.data_ptr(),
            X.data_ptr(),
            state.data_ptr(),
            new_state.data_ptr(),
            None if kept is None else kept.data_ptr(),
            None if adapters is None else adapters.data_ptr(),
        )
        self._check(result)

    def rewind(
        self, tokens: Tensor, counts: Tensor, state: Tensor, new_state: Tensor, kept: Tensor
    ) -> None:
        """Compute the states after the first `counts` tokens of each sequence of an earlier pass.

        Args:
            tokens, state, kept: those of the pass.
            counts: (sequences,) int32.
            new_state: (L, 3) int64, the addresses to write.
        """
        result = self._library.wkv_rewind(
            self._pointer,
            len(tokens),
            tokens.data_ptr(),
            counts.data_ptr(),
            state.data_ptr(),
            new_state.data_ptr(),
            kept.data_ptr(),
        )
        self._check(result)

    def head(self, X: Tensor, logits: Tensor) -> None:
        """Compute logits (rows, V) from rows (rows, D) of the residual stream; both float32."""
        self._check(self._library.wkv_head(self._pointer, len(X), X.data_ptr(), logits.data_ptr()))

    def _check(self, result: int) -> None:
        if result != 0:
            raise MemoryError("there is not enough memory for the activations of all tokens")

    def _add_inputs(self, inputs: Inputs) -> None:
        forms = 0
        for format in inputs.formats:
            forms |= self._library.wkv_form(self.kernels.encode(), format)
        self._library.wkv_inputs(self._pointer, inputs.width, forms, int(inputs.sparse))

    def _add_matrix(self, matrix: Packed) -> None:
        self._library.wkv_matrix(
            self._pointer,
            matrix.format,
            matrix.layout,
            matrix.outputs,
            matrix.inputs,
            matrix.data.data_ptr(),
        )

    def _add_step(self, number: StepList, phase: int, step: StepStruct) -> None:
        result = self._library.wkv_step(
            self._pointer, number, step.kind, phase, ctypes.addressof(step)
        )
        if result != 0:
            raise WKVError(f"the native engine rejected a {step.kind.name} step")
