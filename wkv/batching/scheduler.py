"""Continuous batching: requests come and go at any time, and the model is always busy with all.

A step reads a piece of the prompts that wait, then writes one token of each sequence. So a long
prompt delays the others' tokens by a piece at most, and all rows share each read of the weights.
"""

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from wkv.batching.decode import PATIENCE_SECONDS, Rows
from wkv.batching.prefill import Readings
from wkv.batching.request import Begun, Deliver, Request, Ticket, as_wkv_error
from wkv.batching.state_cache import StateCache
from wkv.errors import BusyError, InputError
from wkv.inference.model import TOKENS_AT_ONCE, Model
from wkv.ops.torch_settings import at_most

PIECE_WORK = 2**35
"""Multiplications, about, of the piece of a prompt that is read between two tokens of others."""

SMALLEST_PIECE = 16

Result = TypeVar("Result")


@dataclass(frozen=True)
class Load:
    """How much a scheduler has to do.

    Attributes:
        writing: sequences that are being written.
        reading: prompts that are being read.
        queued: requests that wait for a slot.
        tasks: other work that is done between the steps.
        slots: sequences that can be written at once.
    """

    writing: int
    reading: int
    queued: int
    tasks: int
    slots: int

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.writing or self.reading or self.queued or self.tasks)


class Scheduler:
    """Takes requests from any thread; `step` is called by one.

    Attributes:
        model: what all requests are answered by.
        cache: states that were reached before.
        slots: sequences that are read or written at once.
        queue: requests that may wait beyond them.
        piece: tokens of prompts that are read between two tokens of others.
    """

    def __init__(
        self,
        model: Model,
        cache: StateCache,
        *,
        slots: int = 16,
        queue: int = 64,
        piece: int | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.model = model
        self.cache = cache
        self.slots = slots
        self.queue = queue
        self.piece = piece_for(model) if piece is None else piece
        self._readings = Readings(model, cache)
        self._rows = Rows(model, cache, patience)
        self._queued: deque[Ticket] = deque()
        self._tasks: deque[tuple[Generator[None, None, Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._is_woken = False

    @property
    def load(self) -> Load:
        """How much there is to do now."""
        reading, tasks = len(self._readings.active), len(self._tasks)
        return Load(len(self._rows), reading, len(self._queued), tasks, self.slots)

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Take a request; `deliver` gets its events, in the thread that steps.

        Raises:
            InputError: if there is nothing to read, or there are fewer slots than choices.
            BusyError: if too many wait already.
        """
        known = request.start is not None and request.start.logits is not None
        if not request.ids and not known:
            raise InputError("the prompt is empty; give some text, or a state to go on from")
        if not 1 <= request.choices <= self.slots:
            raise InputError(
                f"{request.choices} choices were asked for, expected 1 to {self.slots}"
            )
        ticket = Ticket(request, deliver)
        with self._changed:
            if len(self._queued) >= self.queue + max(0, self.slots - self._taken()):
                raise BusyError(
                    f"{self.slots} sequences are being written and {len(self._queued)} requests "
                    "wait already; try again later"
                )
            self._queued.append(ticket)
            self._changed.notify()
        return ticket

    def run_task(self, task: Generator[None, None, Result]) -> "Future[Result]":
        """Advance a generator once in each step, in the thread that steps.

        The future gets what it returns. If the future is cancelled, it is not advanced any more.

        Raises:
            BusyError: if too many wait already.
        """
        future: Future[Any] = Future()
        with self._changed:
            if len(self._tasks) >= self.queue + self.slots:
                raise BusyError(f"{len(self._tasks)} tasks wait already; try again later")
            self._tasks.append((task, future))
            self._changed.notify()
        return future

    def wake(self) -> None:
        """Look again at what there is to do: a ticket was cancelled, or a reader caught up."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    def wait(self, seconds: float) -> None:
        """Return when there is something new to do, or after some time."""
        with self._changed:
            if not self._queued and not self._tasks and not self._is_woken:
                self._changed.wait(seconds)
            self._is_woken = False

    def step(self) -> bool:
        """Do a little of everything; false if there was nothing to do."""
        # What is done between the engine's calls is small, and PyTorch's threads, once they are
        # awake, take the cores from the engine's own for milliseconds.
        quiet = at_most(1) if self.model.engine == "native" else nullcontext()
        try:
            with quiet:
                self._drop_cancelled()
                self._admit()
                worked = self._read()
                worked = self._rows.step() or worked
                return self._do_task() or worked
        except Exception as error:
            self.fail_all(error)
            return True

    def fail_all(self, error: Exception) -> None:
        """End all that goes on, with an error; what comes later is as if nothing had happened."""
        told = as_wkv_error(error)
        with self._changed:
            tickets = {*self._queued, *self._rows.tickets()}
            self._queued.clear()
            tasks = list(self._tasks)
            self._tasks.clear()
        for _, future in tasks:
            with suppress(InvalidStateError):
                future.set_exception(told)
        tickets |= {reading.ticket for reading in self._readings.active}
        self._readings.active.clear()
        self._rows.clear()
        for ticket in tickets:
            ticket.fail(told)

    def _taken(self) -> int:
        """Slots that are taken."""
        reading = list(self._readings.active)
        return len(self._rows) + sum(one.ticket.request.choices for one in reading)

    def _drop_cancelled(self) -> None:
        with self._changed:
            if any(ticket.is_cancelled for ticket in self._queued):
                left = [ticket for ticket in self._queued if not ticket.is_cancelled]
                self._queued = deque(left)
        for reading in [r for r in self._readings.active if r.ticket.is_cancelled]:
            self._readings.drop(reading)
        gone = {ticket for ticket in self._rows.tickets() if ticket.is_cancelled}
        if gone:
            self._rows.drop(gone)

    def _admit(self) -> None:
        """Begin to read what waits, as far as there are slots."""
        taken = self._taken()
        while True:
            with self._changed:
                if not self._queued or taken + self._queued[0].request.choices > self.slots:
                    return
                ticket = self._queued.popleft()
            taken += ticket.request.choices
            try:
                self._readings.add(ticket)
            except Exception as error:  # a disk, or memory, fails for this one
                ticket.fail(as_wkv_error(error))

    def _read(self) -> bool:
        """Read a piece; prompts that are done begin to be written."""
        if not self._readings.active:
            return False
        budget = self.piece if self._rows.active else TOKENS_AT_ONCE
        done = [reading for reading in self._readings.step(budget) if reading.is_done]
        self._rows.add(done)
        for reading in done:
            reading.ticket.send(Begun(reading.cached))
            self._readings.active.remove(reading)
        return True

    def _do_task(self) -> bool:
        """Advance the first task, which then goes to the end of the line."""
        with self._changed:
            if not self._tasks:
                return False
            task, future = self._tasks[0]
        ended = future.cancelled() or _advance(task, future)
        with self._changed:
            self._tasks.popleft()
            if not ended:
                self._tasks.append((task, future))
        return True


def _advance(task: Generator[None, None, Any], future: "Future[Any]") -> bool:
    """Advance a task once; true if it has ended, and its future knows how."""
    try:
        next(task)
    except StopIteration as end:
        with suppress(InvalidStateError):  # it was cancelled meanwhile
            future.set_result(end.value)
    except Exception as error:
        with suppress(InvalidStateError):
            future.set_exception(error)
    else:
        return False
    return True


def piece_for(model: Model) -> int:
    """Tokens between two of others: some 0.1 s on a small CPU; all at once on a GPU."""
    if model.device.type != "cpu":
        return TOKENS_AT_ONCE
    config = model.config
    multiplications = config.n_layer * (12 * config.n_embd**2)
    piece = PIECE_WORK // multiplications
    return max(SMALLEST_PIECE, min(TOKENS_AT_ONCE, piece))
