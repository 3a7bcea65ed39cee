"""Measurement of a model and the memory in alternation, over several rounds."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from wkv.bench.costs import Costs, costs_of
from wkv.bench.inputs import Text, text_for
from wkv.bench.memory_bandwidth import Stream
from wkv.bench.workloads import Task, tasks_for
from wkv.inference.model import Model

TURN = 0.2
"""Approximate duration in seconds of one decoding measurement."""

MAX_STEPS = 256
"""Maximum number of steps in one decoding measurement."""


@dataclass(frozen=True)
class Result:
    """The measurements of one task.

    Attributes:
        task: the task.
        seconds: duration of one call in each round.
        bytes_per_token: bytes read per token if nothing is skipped.
        operations_per_byte: operations per byte read.
        streams: measured memory bandwidth in bytes per second, in each round.
    """

    task: Task
    seconds: tuple[float, ...]
    bytes_per_token: float
    operations_per_byte: float
    streams: tuple[float, ...]

    @property
    def tokens_per_second(self) -> float:
        """The tokens per second over all rows, the median of the rounds."""
        return self.task.all_tokens / statistics.median(self.seconds)

    @property
    def bytes_per_second(self) -> float:
        """The bytes read per second if nothing is skipped, the median of the rounds."""
        return self.tokens_per_second * self.bytes_per_token

    @property
    def share(self) -> float:
        """The share of the memory bandwidth in the same round, the median of the rounds."""
        read = self.bytes_per_token * self.task.all_tokens
        turns = zip(self.seconds, self.streams, strict=True)
        return statistics.median(read / seconds / stream for seconds, stream in turns)


@dataclass(frozen=True)
class Measured:
    """All results of a measurement.

    Attributes:
        costs: the costs of the model.
        text: a description of the text that it read.
        streams: measured memory bandwidth in bytes per second, in each round.
        results: one result per task.
    """

    costs: Costs
    text: str
    streams: tuple[float, ...]
    results: tuple[Result, ...]

    @property
    def stream(self) -> float:
        """The memory bandwidth in bytes per second, the median of the rounds."""
        return statistics.median(self.streams)


def plan(model: Model) -> tuple[Task, ...]:
    """Return the tasks to measure for a model."""
    return tasks_for(model.engine)


def measure(
    model: Model,
    stream: Stream,
    tasks: Sequence[Task],
    *,
    rounds: int,
    on_turn: Callable[[str], None] = lambda name: None,
) -> Measured:
    """Measure the memory and then each task once in every round, after a warm-up round.

    Args:
        model: a model on any device.
        stream: a stream on the same device.
        tasks: the tasks, such as those of `plan`.
        rounds: number of rounds after the warm-up, at least 1.
        on_turn: called with the name of each measurement before it starts.
    """
    text, costs = text_for(model), costs_of(model)
    steps = dict.fromkeys(tasks, 1)
    streams: list[float] = []
    seconds: dict[Task, list[float]] = {task: [] for task in tasks}
    for number in range(rounds + 1):
        on_turn("memory")
        bandwidth = stream.bytes_per_second()
        if number > 0:
            streams.append(bandwidth)
        for task in tasks:
            on_turn(task.name)
            took = _turn(model, task, text, steps[task])
            if number > 0:
                seconds[task].append(took)
            elif task.kind == "decode":
                steps[task] = max(1, min(MAX_STEPS, round(TURN / took)))
    results = tuple(
        Result(
            task,
            tuple(seconds[task]),
            costs.bytes_per_token(task),
            costs.operations_per_byte(task),
            tuple(streams),
        )
        for task in tasks
    )
    return Measured(costs, text.what, tuple(streams), results)


def _turn(model: Model, task: Task, text: Text, steps: int) -> float:
    """Return the duration of one call of a task in seconds; for decoding, the mean of the steps."""
    if task.kind == "prefill":
        prompt = text.rows(task.rows, task.tokens)
        begun = time.perf_counter()
        model.forward(prompt)
        _wait(model)
        return time.perf_counter() - begun
    tokens = text.rows(task.rows, steps + 1)
    with _skipping_zeros(model, task.skip_zeros):
        _, state = model.forward(tokens[:, :1])  # allocates the memory of the states
        _wait(model)
        begun = time.perf_counter()
        for step in range(1, steps + 1):
            _, state = model.forward(tokens[:, step : step + 1], state)
        _wait(model)
        return (time.perf_counter() - begun) / steps


@contextmanager
def _skipping_zeros(model: Model, skip: bool) -> Iterator[None]:
    """Set whether the native engine skips zeros, and restore the previous setting afterwards."""
    if model.engine != "native":
        yield
        return
    before = model.skip_zeros
    model.skip_zeros = skip
    try:
        yield
    finally:
        model.skip_zeros = before


def _wait(model: Model) -> None:
    """Wait until a GPU has finished all work."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    elif model.device.type == "mps":
        torch.mps.synchronize()
