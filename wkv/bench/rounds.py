"""Measure a model and the memory in turn, round by round."""

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
"""Seconds that a turn of decoding lasts, about."""

MOST_STEPS = 256
"""Steps of a turn at most, however fast they are."""


@dataclass(frozen=True)
class Result:
    """What was measured of one task.

    Attributes:
        task: what was done.
        seconds: of one call, in each round.
        bytes_per_token: read for a token if nothing is skipped.
        operations_per_byte: how often what was read is used.
        streams: bytes per second that the memory gave, in each round.
    """

    task: Task
    seconds: tuple[float, ...]
    bytes_per_token: float
    operations_per_byte: float
    streams: tuple[float, ...]

    @property
    def tokens_per_second(self) -> float:
        """The median of the rounds, over all rows."""
        return self.task.all_tokens / statistics.median(self.seconds)

    @property
    def bytes_per_second(self) -> float:
        """The median of the rounds, if nothing was skipped."""
        return self.tokens_per_second * self.bytes_per_token

    @property
    def share(self) -> float:
        """Of the bytes that the memory gave in the same round, the median of the rounds."""
        read = self.bytes_per_token * self.task.all_tokens
        turns = zip(self.seconds, self.streams, strict=True)
        return statistics.median(read / seconds / stream for seconds, stream in turns)


@dataclass(frozen=True)
class Measured:
    """All results.

    Attributes:
        costs: of the model.
        text: what it read, in words.
        streams: bytes per second that the memory gave, in each round.
        results: one for each task.
    """

    costs: Costs
    text: str
    streams: tuple[float, ...]
    results: tuple[Result, ...]

    @property
    def stream(self) -> float:
        """Bytes per second that the memory gave, the median of the rounds."""
        return statistics.median(self.streams)


def plan(model: Model) -> tuple[Task, ...]:
    """What is measured of a model."""
    return tasks_for(model.engine)


def measure(
    model: Model,
    stream: Stream,
    tasks: Sequence[Task],
    *,
    rounds: int,
    on_turn: Callable[[str], None] = lambda name: None,
) -> Measured:
    """Every round reads the memory and then does each task once; a round before them is not kept.

    Args:
        model: on any device.
        stream: of the same device.
        tasks: such as those of `plan`.
        rounds: that are kept, at least 1.
        on_turn: told the name of what is done next.
    """
    text, costs = text_for(model), costs_of(model)
    steps = dict.fromkeys(tasks, 1)
    streams: list[float] = []
    seconds: dict[Task, list[float]] = {task: [] for task in tasks}
    for number in range(rounds + 1):
        on_turn("memory")
        gave = stream.bytes_per_second()
        if number > 0:
            streams.append(gave)
        for task in tasks:
            on_turn(task.name)
            took = _turn(model, task, text, steps[task])
            if number > 0:
                seconds[task].append(took)
            elif task.kind == "decode":
                steps[task] = max(1, min(MOST_STEPS, round(TURN / took)))
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
    """Seconds of one call of a task, the mean of so many steps where it decodes."""
    if task.kind == "prefill":
        prompt = text.rows(task.rows, task.tokens)
        begun = time.perf_counter()
        model.forward(prompt)
        _wait(model)
        return time.perf_counter() - begun
    tokens = text.rows(task.rows, steps + 1)
    with _zeros(model, task.skip_zeros):
        _, state = model.forward(tokens[:, :1])  # touches the memory of the states
        _wait(model)
        begun = time.perf_counter()
        for step in range(1, steps + 1):
            _, state = model.forward(tokens[:, step : step + 1], state)
        _wait(model)
        return (time.perf_counter() - begun) / steps


@contextmanager
def _zeros(model: Model, skip: bool) -> Iterator[None]:
    """Whether the engine skips zeros, in a context; it is left as it was found."""
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
    """Until a GPU has done what it was told."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    elif model.device.type == "mps":
        torch.mps.synchronize()
