"""A model as a list of steps for the native engine.

Each generation adds the steps of its layers in the order of its formulas. The engine runs steps in
phases: steps that do not depend on each other share a phase and run in parallel.

    rows        vectors of activations, one per token of each sequence
    Buffer      rows of floats
    Inputs      rows in the forms that products read (floats, bf16, int8)
    Packed      a matrix; see `wkv.checkpoint.packing`
    Tensor      a vector of floats
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wkv.adapters.rows import Pair
from wkv.checkpoint.packing import Format, Layout, Packed, pack
from wkv.errors import WKVError
from wkv.native import steps
from wkv.native.steps import Function, StatePart, StepList, StepStruct


@dataclass(eq=False)
class Buffer:
    """Rows of `width` floats."""

    width: int
    index: int


@dataclass(eq=False)
class Inputs:
    """Rows that products read; `sparse` if most values are zero."""

    width: int
    index: int
    sparse: bool = False
    formats: set[Format] = field(default_factory=set)


Rows = Buffer | Inputs
Operand = Rows | Packed | Tensor | int | float | None
Argument = Operand | Sequence[Operand]


@dataclass
class Step:
    """One step: its struct, and the rows that it reads and writes.

    A written buffer counts as read too, because a step may add to it.
    """

    struct: StepStruct
    reads: list[Rows]
    writes: list[Rows]


class Plan:
    """The steps of a model and their operands; `CompiledPlan` runs them.

    Attributes:
        X: the residual stream, provided by the caller.
        logits: the output of the head, provided by the caller.
        sharing: layers with equal values share the memory of their inputs.
        adapters: official name of a matrix to the factors of each adapter that rows may choose.
        steps: the steps of each `StepList`.
        buffers, inputs, vectors, matrices: the operands, in the order of their indices.
    """

    def __init__(self, n_embd: int, vocab_size: int) -> None:
        self.X = Buffer(n_embd, steps.X_BUFFER)
        self.logits = Buffer(vocab_size, steps.LOGITS_BUFFER)
        self.sharing = ""
        self.adapters: Mapping[str, Sequence[Pair | None]] = {}
        self.steps: dict[StepList, list[Step]] = {number: [] for number in StepList}
        self.buffers: list[Buffer] = [self.X, self.logits]
        self.inputs: list[Inputs] = []
        self.vectors: list[Tensor] = []
        self.matrices: list[Packed] = []
        self._buffer_names: dict[tuple[str, int], Buffer] = {}
        self._input_roles: dict[tuple[object, ...], Inputs] = {}
        self._list = StepList.body

    def begin_head(self) -> None:
        """Add all further steps to the head, which computes logits from X."""
        self._list = StepList.head

    def buffer(self, name: str, width: int) -> Buffer:
        """Return the buffer with this name and width; layers share it."""
        if (name, width) not in self._buffer_names:
            self._buffer_names[name, width] = Buffer(width, len(self.buffers))
            self.buffers.append(self._buffer_names[name, width])
        return self._buffer_names[name, width]

    def product_inputs(self, width: int, *role: object, sparse: bool = False) -> Inputs:
        """Return the inputs with this role and width; layers with equal `sharing` share them."""
        key = (self.sharing, self._list, width, *role)
        if key not in self._input_roles:
            self._input_roles[key] = Inputs(width, len(self.inputs), sparse)
            self.inputs.append(self._input_roles[key])
        return self._input_roles[key]

    def norm(
        self, x: Buffer, to: Buffer, weight: Tensor, bias: Tensor, eps: float = 1e-5
    ) -> Buffer:
        """Write the layer norm LN(x) to `to` and return `to`."""
        self.add(steps.Norm, [to], x=x, y=to, weight=weight, bias=bias, eps=eps)
        return to

    def shift(
        self,
        norm: tuple[Tensor, Tensor],
        layer: int,
        part: StatePart,
        shares: Sequence[Tensor],
        *,
        keep: bool = False,
        eps: float = 1e-5,
    ) -> tuple[list[Inputs], Buffer | None, Buffer | None]:
        """Return x + d share for each share, with x = LN(X; norm) and d = previous x - x.

        With `keep`, x and d are returned too.
        """
        if len(shares) > steps.MAX_MIXES:
            raise WKVError(f"a token shift has {len(shares)} mixes, at most {steps.MAX_MIXES}")
        weight, bias = norm
        width = self.X.width
        x = self.buffer("x", width) if keep else None
        difference = self.buffer("difference", width) if keep else None
        mixed = [self.product_inputs(width, "shift", number) for number in range(len(shares))]
        kept = [buffer for buffer in (x, difference) if buffer is not None]
        self.add(
            steps.Shift,
            [*mixed, *kept],
            x=self.X,
            weight=weight,
            bias=bias,
            layer=layer,
            part=part,
            normed=x,
            difference=difference,
            n_mixes=len(shares),
            share=shares,
            inputs=mixed,
            eps=eps,
        )
        return mixed, x, difference

    def mix(self, x: Buffer, difference: Buffer, share: Tensor, change: Buffer) -> Inputs:
        """Return the dynamic mix x + difference (share + change)."""
        mixed = self.product_inputs(x.width, "mix", change.index)
        self.add(
            steps.Mix, [mixed], x=x, difference=difference, share=share, change=change, inputs=mixed
        )
        return mixed

    def activate(
        self,
        x: Buffer,
        function: Function = Function.identity,
        *,
        first: int = 0,
        width: int | None = None,
    ) -> Inputs:
        """Apply a function to `width` values of each row, starting at `first`."""
        sparse = function is Function.squared_relu
        width = x.width if width is None else width
        inputs = self.product_inputs(width, "activate", x.index, first, function, sparse=sparse)
        self.add(steps.Activate, [inputs], x=x, first=first, function=function, inputs=inputs)
        return inputs

    def product(
        self, inputs: Inputs, matrix: Packed, to: Buffer | str, *, add: bool = False
    ) -> Buffer:
        """Write inputs matrix^T to `to`, a buffer or its name, or add it; return the buffer."""
        target = self.buffer(to, matrix.outputs) if isinstance(to, str) else to
        if inputs.width != matrix.inputs or target.width != matrix.outputs:
            raise WKVError(
                f"a product of {inputs.width} inputs and {target.width} outputs cannot use a "
                f"matrix ({matrix.outputs}, {matrix.inputs})"
            )
        inputs.formats.add(matrix.format)
        self.add(steps.Product, [target], inputs=inputs, matrix=matrix, y=target, add=add)
        if matrix.name in self.adapters:
            self._add_adapters(inputs, self.adapters[matrix.name], target)
        return target

    def _add_adapters(
        self, inputs: Inputs, adapters: Sequence[Pair | None], target: Buffer
    ) -> None:
        """Add what the adapters of the rows change in a product."""
        inputs.formats.add(Format.fp32)
        first = len(self.matrices)
        for pair in adapters:
            empty = (torch.empty(0, inputs.width), torch.empty(target.width, 0))
            factors = empty if pair is None else (pair.A, pair.B)
            self.matrices += [pack(factor, Format.fp32, Layout.rows) for factor in factors]
        self.add(steps.Adapter, [target], inputs=inputs, y=target, first=first, count=len(adapters))

    def gated(self, gate: Buffer, x: Buffer, to: Buffer) -> None:
        """Add sigmoid(gate) x to `to`."""
        self.add(steps.Gated, [to], gate=gate, x=x, y=to)

    def add(self, struct: type[StepStruct], writes: Sequence[Rows], **fields: Argument) -> None:
        """Append a step; `fields` are the fields of its struct, `writes` the rows it writes."""
        if fields.keys() != struct.field_names():
            wrong = ", ".join(sorted(fields.keys() ^ struct.field_names()))
            raise WKVError(f"missing or unknown fields of a {struct.kind.name} step: {wrong}")
        step = struct()
        reads: list[Rows] = []
        for name, argument in fields.items():
            if isinstance(argument, Sequence):
                getattr(step, name)[: len(argument)] = [self._number(one) for one in argument]
            else:
                setattr(step, name, self._number(argument))
            operands = argument if isinstance(argument, Sequence) else [argument]
            reads += [rows for rows in operands if isinstance(rows, (Buffer, Inputs))]
        self.steps[self._list].append(Step(step, reads, list(writes)))

    def _number(self, operand: Operand) -> int | float:
        """Return the value of a struct field: an index, or the number itself."""
        if operand is None:
            return steps.NONE
        if isinstance(operand, (Buffer, Inputs)):
            return operand.index
        if isinstance(operand, Packed):
            self.matrices.append(operand)
            return len(self.matrices) - 1
        if isinstance(operand, Tensor):
            if operand.dtype != torch.float32 or not operand.is_contiguous():
                raise WKVError(f"a vector has dtype {operand.dtype}, expected contiguous float32")
            self.vectors.append(operand)
            return len(self.vectors) - 1
        return operand
