"""A model as a list of steps for the native engine, and handing that list over.

A generation writes its layers down as steps, in the order of its formulas. Which of them may run
side by side follows from what each reads and writes: steps are put into phases, each as early as it
can be.

    rows        of activations, one for each token of each sequence
    Buffer      rows of floats
    Inputs      rows in the forms that products read (floats, bf16, int8)
    Packed      a matrix; see `wkv.checkpoint.packing`
    Tensor      a vector of floats

`source/plan.h` lists the arguments of each kind of step in this order.
"""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from wkv.checkpoint.packing import Format, Packed
from wkv.errors import WKVError
from wkv.native.library import library

ATT_SHIFT, FFN_SHIFT = 0, 2
"""Parts of a layer's state; 1 is that of the recurrence."""


class Kind(IntEnum):
    """What a step does. `source/plan.h` lists the arguments of each."""

    norm = 0
    shift = 1
    mix = 2
    activate = 3
    product = 4
    gated = 5
    wkv4 = 6
    wkv6 = 7  # and 5
    wkv7 = 8


class Function(IntEnum):
    """What `activate` takes of its input."""

    nothing = 0
    tanh = 1
    sigmoid = 2
    squared_relu = 3


@dataclass(eq=False)
class Buffer:
    """Rows of `width` floats."""

    width: int


@dataclass(eq=False)
class Inputs:
    """Rows that products read; `sparse` if most are zero."""

    width: int
    sparse: bool = False
    formats: set[Format] = field(default_factory=set)


Argument = Buffer | Inputs | Packed | Tensor | int | None


@dataclass
class Step:
    """One step: its kind, its arguments, and which of them it writes (all others it reads)."""

    kind: Kind
    arguments: list[Argument]
    writes: list[Buffer | Inputs]
    eps: float = 0.0

    @property
    def reads(self) -> list[Buffer | Inputs]:
        """Whatever has rows; what is written is read too where it is added to."""
        return [a for a in self.arguments if isinstance(a, (Buffer, Inputs))]


class Plan:
    """The steps of a model; `compiled` makes what runs of them.

    Attributes:
        X: the residual stream, which the caller hands in; `logits` is what the head fills.
        sharing: layers for which this is the same share the memory of their inputs.
    """

    def __init__(self, n_embd: int, vocab_size: int) -> None:
        self.X, self.logits = Buffer(n_embd), Buffer(vocab_size)
        self.steps: tuple[list[Step], list[Step]] = ([], [])
        self.sharing = ""
        self._buffers: dict[str, Buffer] = {}
        self._inputs: dict[tuple[object, ...], Inputs] = {}
        self._list = self.steps[0]

    def begin_head(self) -> None:
        """What follows is no part of the layers, but makes logits of X."""
        self._list = self.steps[1]

    def buffer(self, name: str, width: int) -> Buffer:
        """A buffer by name; the layers share theirs."""
        return self._buffers.setdefault(f"{name} {width}", Buffer(width))

    def inputs(self, width: int, *role: object, sparse: bool = False) -> Inputs:
        """Rows that products read, by their role; layers share theirs."""
        made = Inputs(width, sparse)
        return self._inputs.setdefault((self.sharing, id(self._list), width, *role), made)

    def norm(
        self, x: Buffer, to: Buffer, weight: Tensor, bias: Tensor, eps: float = 1e-5
    ) -> Buffer:
        """The norm LN(x), in `to`."""
        self._add(Kind.norm, [x, to, weight, bias], [to], eps)
        return to

    def shift(
        self,
        norm: tuple[Tensor, Tensor],
        layer: int,
        part: int,
        shares: Sequence[Tensor],
        *,
        keep: bool = False,
        eps: float = 1e-5,
    ) -> tuple[list[Inputs], Buffer | None, Buffer | None]:
        """Token shift: x + d share for each share, with x = LN(X; norm) and d = previous x - x.

        With `keep`, x and d are handed back too.
        """
        width = self.X.width
        x = self.buffer("x", width) if keep else None
        difference = self.buffer("difference", width) if keep else None
        mixed = [self.inputs(width, "shift", number) for number in range(len(shares))]
        pairs = [one for pair in zip(shares, mixed, strict=True) for one in pair]
        kept = [buffer for buffer in (x, difference) if buffer is not None]
        arguments: list[Argument] = [self.X, *norm, layer, part, x, difference, *pairs]
        self._add(Kind.shift, arguments, [*mixed, *kept], eps)
        return mixed, x, difference

    def mix(self, x: Buffer, difference: Buffer, share: Tensor, more: Buffer) -> Inputs:
        """A dynamic mix, x + difference (share + more)."""
        mixed = self.inputs(x.width, "mix", id(more))
        self._add(Kind.mix, [x, difference, share, more, mixed], [mixed])
        return mixed

    def activate(
        self,
        x: Buffer,
        function: Function = Function.nothing,
        *,
        first: int = 0,
        width: int | None = None,
    ) -> Inputs:
        """A function of `width` values of each row, from `first` on, as inputs of products."""
        sparse = function is Function.squared_relu
        inputs = self.inputs(
            x.width if width is None else width, "activate", id(x), first, function, sparse=sparse
        )
        self._add(Kind.activate, [x, x.width, first, int(function), inputs], [inputs])
        return inputs

    def product(
        self, inputs: Inputs, matrix: Packed, to: Buffer | str, *, add: bool = False
    ) -> Buffer:
        """The product inputs matrix^T, in `to` or added to it; `to` may be the name of a buffer."""
        target = self.buffer(to, matrix.outputs) if isinstance(to, str) else to
        if inputs.width != matrix.inputs or target.width != matrix.outputs:
            raise WKVError(
                f"a product of {inputs.width} inputs to {target.width} outputs met a matrix "
                f"({matrix.outputs}, {matrix.inputs})"
            )
        inputs.formats.add(matrix.format)
        self._add(Kind.product, [inputs, matrix, target, int(add)], [target])
        return target

    def gated(self, gate: Buffer, x: Buffer, to: Buffer) -> None:
        """Add sigmoid(gate) x to `to`."""
        self._add(Kind.gated, [gate, x, to], [to])

    def recurrence(
        self,
        kind: Kind,
        rows: Sequence[Buffer | None],
        writes: Sequence[Buffer],
        rest: Sequence[Argument],
        eps: float = 0.0,
    ) -> None:
        """The recurrence of a generation, with what is done number by number around it."""
        self._add(kind, [*rows, *rest], writes, eps)

    def _add(
        self,
        kind: Kind,
        arguments: list[Argument],
        writes: Iterable[Buffer | Inputs],
        eps: float = 0.0,
    ) -> None:
        self._list.append(Step(kind, arguments, list(writes), eps))

    def compiled(self, kernels: str, threads: int) -> "CompiledPlan":
        """The plan in the engine's hands."""
        return CompiledPlan(self, kernels, threads)


def phases(steps: Sequence[Step]) -> list[int]:
    """For each step the first phase when all it needs is there and none needs what it replaces."""
    written: dict[int, int] = {}
    read: dict[int, int] = {}
    found = []
    for step in steps:
        phase = max((written.get(id(rows), -1) + 1 for rows in step.reads), default=0)
        phase = max([phase, *(read.get(id(rows), -1) + 1 for rows in step.writes)])
        for rows in step.reads:
            read[id(rows)] = max(read.get(id(rows), -1), phase)
        for rows in step.writes:
            written[id(rows)] = phase
        found.append(phase)
    return found


class CompiledPlan:
    """A plan that runs. It holds on to matrices and vectors, which the engine only points at."""

    def __init__(self, plan: Plan, kernels: str, threads: int) -> None:
        self.kernels, self.threads = kernels, threads
        self._library = library()
        self._pointer = self._library.wkv_plan(kernels.encode(), threads)
        if not self._pointer:
            raise WKVError(
                f"the engine could not begin: it has no kernels {kernels!r} for this CPU, or there "
                "is not enough memory"
            )
        self._library.wkv_widths(self._pointer, plan.X.width, plan.logits.width)
        self._held: list[Tensor] = []
        self._numbers: dict[int, int] = {id(plan.X): 0, id(plan.logits): 1}
        self._objects: list[object] = [plan]  # whose ids are in use as long as this is
        for number, steps in enumerate(plan.steps):
            order = sorted(zip(phases(steps), steps, strict=True), key=lambda pair: pair[0])
            for phase, step in order:
                self._hand_over(number, phase, step)

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            self._library.wkv_plan_free(self._pointer)
            self._pointer = None

    def skip_zeros(self, skip: bool) -> None:
        """Whether inputs that are zero are skipped where there is a single row."""
        self._library.wkv_skip_zeros(self._pointer, int(skip))

    def body(self, tokens: Tensor, X: Tensor, state: Tensor, new_state: Tensor) -> None:
        """Pass rows through the layers.

        Args:
            tokens: (sequences,) int32, how many rows belong to each.
            X: (rows, D) float32, the embeddings; replaced by the residual stream.
            state, new_state: (L, 3) int64, where each part of each layer's state is.
        """
        self._done(
            self._library.wkv_body(
                self._pointer,
                len(tokens),
                tokens.data_ptr(),
                X.data_ptr(),
                state.data_ptr(),
                new_state.data_ptr(),
            )
        )

    def head(self, X: Tensor, logits: Tensor) -> None:
        """Rows (rows, D) of the residual stream to logits (rows, V); both float32."""
        self._done(self._library.wkv_head(self._pointer, len(X), X.data_ptr(), logits.data_ptr()))

    def _done(self, result: int) -> None:
        if result != 0:
            raise MemoryError("not enough memory for the activations of so many tokens at once")

    def _hand_over(self, number: int, phase: int, step: Step) -> None:
        arguments = [self._number(argument) for argument in step.arguments]
        array = (ctypes.c_int32 * len(arguments))(*arguments)
        result = self._library.wkv_step(
            self._pointer, number, step.kind, phase, array, len(arguments), step.eps
        )
        if result != 0:
            raise WKVError(
                f"the engine does not know step {step.kind} of {len(arguments)} arguments"
            )

    def _number(self, argument: Argument) -> int:
        """What the engine calls an argument; it is told of it at its first use."""
        if argument is None:
            return -1
        if isinstance(argument, int):
            return argument
        if id(argument) not in self._numbers:
            self._numbers[id(argument)] = self._told(argument)
            self._objects.append(argument)
        return self._numbers[id(argument)]

    def _told(self, argument: Buffer | Inputs | Packed | Tensor) -> int:
        add, plan = self._library, self._pointer
        if isinstance(argument, Buffer):
            return int(add.wkv_buffer(plan, argument.width))
        if isinstance(argument, Inputs):
            forms = 0
            for format in argument.formats:
                forms |= add.wkv_form(self.kernels.encode(), format)
            return int(add.wkv_inputs(plan, argument.width, forms, int(argument.sparse)))
        if isinstance(argument, Packed):
            self._held.append(argument.data)
            return int(
                add.wkv_matrix(
                    plan,
                    argument.format,
                    argument.layout,
                    argument.outputs,
                    argument.inputs,
                    argument.data.data_ptr(),
                )
            )
        if argument.dtype != torch.float32 or not argument.is_contiguous():
            raise WKVError(f"a vector is {argument.dtype}, expected contiguous float32")
        self._held.append(argument)
        return int(add.wkv_vector(plan, argument.data_ptr()))
