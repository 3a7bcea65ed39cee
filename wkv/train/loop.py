"""The training loop, for one process or several that share the rows of each step.

The loop is the same for training from scratch and for fine-tuning; a `Task` is what differs. The
processes add up their gradients. Process 0 writes the files, handles signals and detects
divergence, and the others end when it ends.

A step depends only on its number and the weights, so a run with a given number of steps can be
stopped and resumed with the same result. The schedule of a run with a given number of minutes
depends on the clock instead.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from wkv.errors import TrainingError, install_command
from wkv.train.data import Batch, RowSource, batch
from wkv.train.optimizer import Optimizer, ProcessGroup, Trained
from wkv.train.run_folder import RunFolder, can_plot
from wkv.train.schedule import Schedule
from wkv.train.settings import TrainingSettings, check_same

Report = Callable[[dict[str, Any], float], None]
"""A callback for each line of the log and the completed share of the run, in [0, 1]."""


class Task(Protocol):
    """The interface of what is trained: tensors, rows, the loss and the result.

    Attributes:
        trained: the tensors, in an order that is the same in every process.
        rows: the source of rows.
        schedule: the learning rate over the run.
        config: sizes that a checkpoint must share with the task.
        stop_reason: why the run should end early; None as long as it should not.
    """

    trained: Sequence[Trained]
    rows: RowSource
    schedule: Schedule
    config: Mapping[str, Any]
    stop_reason: str | None

    def backward(self, rows: Batch, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add the gradient of the sum of weighted losses, divided by `total`, to each `.grad`.

        Args:
            rows: the rows of this process.
            total: the sum of the weights over all processes.

        Returns:
            The positions of targets in the flattened rows, their cross entropy and their weight,
            (K,) each; padding has weight 0.
        """
        ...

    def held_out_loss(self, step: int, *, is_last: bool) -> dict[str, float]:
        """Return mean losses of held-out rows by name, or nothing at this step."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint contains besides tensors, optimizer and step."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        ...

    def export(self, folder: RunFolder) -> None:
        """Write the result to the folder."""
        ...


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGINT or SIGTERM sets. Outside the main thread nothing sets it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: event.set()) for number in signals]
    try:
        yield event
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def run_in_folder(
    folder: RunFolder, threads: int, notify: Callable[[str], None]
) -> Iterator[contextlib.ExitStack]:
    """Prepare process 0 for a run: its threads, and a message if no plot can be drawn.

    If the run fails before its first checkpoint, its files are removed from the folder.

    Args:
        folder: the folder of the run, prepared.
        threads: number of PyTorch's threads during the run.
        notify: called with messages for the user.

    Yields:
        A stack for what must end with the run.
    """
    if not can_plot():
        command = install_command("train")
        notify(f"matplotlib is not installed, so there will be no loss.png; run: {command}")
    before = torch.get_num_threads()
    try:
        with contextlib.ExitStack() as stack:
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
            yield stack
    except BaseException:
        if not folder.checkpoint.exists():
            folder.clear()
        raise


class Loop:
    """The training loop of one process: its task, optimizer and current step."""

    def __init__(
        self,
        task: Task,
        settings: TrainingSettings,
        folder: RunFolder,
        group: ProcessGroup,
        *,
        source: Mapping[str, Any],
        resume: bool,
    ) -> None:
        """Prepare the loop.

        Args:
            task: what is trained.
            settings: the settings of the run.
            folder: the folder of the run.
            group: the processes that train together.
            source: further options by name, which a resumed run must share.
            resume: whether to continue from the folder's checkpoint.
        """
        self.task, self.settings, self.folder, self.group = task, settings, folder, group
        self.record = {**settings.record(), **source}
        self.rows_each = settings.rows // group.size
        self.gradient = _flat_gradient(task.trained)
        self.optimizer = Optimizer(task.trained, settings.optimizer, group)
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self.rate = self.norm = 0.0
        self.tally = _Tally()
        if resume:
            self._load()

    def _load(self) -> None:
        state = self.folder.load()
        path, config = self.folder.checkpoint, dict(self.task.config)
        check_same(path, state["plan"], self.record)
        if state["config"] != config:
            raise TrainingError(
                f"{path} is of a model with {state['config'].get('vocab_size')} ids, but "
                f"{self.folder.vocabulary} has {config['vocab_size']}; restore that file"
            )
        with torch.no_grad():
            for one in self.task.trained:
                one.parameter.copy_(state["model"][one.name])
        self.optimizer.load_state(state["optimizer"])
        self.task.load_state(state.get("task", {}))
        self.step, self.seconds = state["step"], state["seconds"]
        self.tokens = state.get("tokens", self.step * self.settings.rows * self.settings.context)
        if self.group.rank == 0:
            self.folder.rewind(self.step)

    def _save(self) -> None:
        if self.group.rank == 0:
            if not all(bool(one.parameter.isfinite().all()) for one in self.task.trained):
                raise self._diverged("the weights are")
            state = {
                "plan": self.record,
                "config": dict(self.task.config),
                "model": {one.name: one.parameter.detach() for one in self.task.trained},
                "optimizer": self.optimizer.state(),
                "task": self.task.state(),
                "step": self.step,
                "seconds": self.seconds,
                "tokens": self.tokens,
            }
            self.folder.save(state)
            self.task.export(self.folder)

    def _diverged(self, cause: str) -> TrainingError:
        checkpoint = self.folder.checkpoint
        advice = f"resume from {checkpoint}" if checkpoint.exists() else "start again"
        return TrainingError(
            f"the run has diverged: {cause} no longer finite after step {self.step}; "
            f"{advice} with a lower --learning-rate than {self.settings.learning_rate:g}"
        )

    def _progress(self) -> float:
        """Return the completed share of the run, by this process's step or clock."""
        if self.settings.minutes is not None:
            return self.seconds / (60 * self.settings.minutes)
        assert self.settings.steps is not None
        return self.step / self.settings.steps

    def run(self, stop: threading.Event, report: Report) -> bool:
        """Train until the run is complete or `stop` is set, and return whether it is complete."""
        clock = saved = time.monotonic()
        warming_up = True
        while True:
            progress, should_stop = self._agree(stop)
            if progress >= 1 or should_stop:
                if self.tally.sums:
                    self._log(report, progress, is_last=True)
                self._save()
                return progress >= 1 or self.task.stop_reason is not None
            self._one_step(progress)
            now = time.monotonic()
            if not warming_up:  # the first step compiles, which the schedule does not count
                self.seconds += now - clock
            warming_up = False
            clock = now
            if self.step % self.settings.log_steps == 0:
                self._log(report, progress, is_last=self.step == self.settings.steps)
            if now - saved > self.settings.save_seconds:
                self._save()
                saved = now

    def _log(self, report: Report, progress: float, *, is_last: bool) -> None:
        """Append a line to the log and report it."""
        entry = self.tally.entry(self.step, self.tokens, self.seconds, self.rate, self.norm)
        if self.group.rank == 0:
            entry["loss"] |= self.task.held_out_loss(self.step, is_last=is_last)
            self.folder.append(entry)
            report(entry, min(progress, 1.0))

    def _agree(self, stop: threading.Event) -> tuple[float, bool]:
        """Return process 0's progress and whether it should stop, the same in every process."""
        message = torch.zeros(2, dtype=torch.float64)
        if self.group.rank == 0:
            message[0] = self._progress()
            message[1] = float(stop.is_set() or self.task.stop_reason is not None)
        self.group.all_reduce(message)
        return message[0].item(), bool(message[1])

    def _one_step(self, progress: float) -> None:
        """Run one training step: forward pass, backward pass and update of the weights."""
        first = self.step * self.settings.rows + self.group.rank * self.rows_each
        rows = batch(self.task.rows, first, self.rows_each)
        self.gradient.zero_()
        counts = torch.stack([rows.weights.sum().double(), torch.tensor(float(rows.n_tokens))])
        self.group.all_reduce(counts)
        chosen, losses, weights = self.task.backward(rows, counts[0].float())
        self.group.all_reduce(self.gradient)
        warm = min(1.0, (self.step + 1) / self.settings.warmup)
        self.rate = self.settings.learning_rate * warm * self.task.schedule.share(progress)
        self.norm = self.optimizer.step(self.rate)
        if not math.isfinite(self.norm) and self.group.rank == 0:
            # The helpers have not updated their weights either, and end with process 0.
            raise self._diverged("the gradient is")
        self.step += 1
        self.tokens += int(counts[1])
        self.tally.add(rows, chosen, losses, weights)


def _flat_gradient(trained: Sequence[Trained]) -> Tensor:
    """Set each parameter's gradient to a view of one flat tensor, and return that tensor."""
    parameters = [one.parameter for one in trained]
    device = parameters[0].device
    flat = torch.zeros(sum(parameter.numel() for parameter in parameters), device=device)
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat


class _Tally:
    """The mean losses of each source of rows since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, rows: Batch, chosen: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Add the losses of a step."""
        row_of = chosen // rows.inputs.shape[1]
        pairs = torch.stack([losses * weights, weights], dim=1)
        per_row = torch.zeros(len(rows.sources), 2).index_add_(0, row_of, pairs)
        for source, pair in zip(rows.sources, per_row, strict=True):
            self.sums[source] = self.sums.get(source, torch.zeros(2)) + pair

    def entry(
        self, step: int, tokens: int, seconds: float, rate: float, norm: float
    ) -> dict[str, Any]:
        """Return a line of the log, and reset the sums."""
        loss = {
            source: round((pair[0] / pair[1]).item(), 4)
            for source, pair in sorted(self.sums.items())
        }
        self.sums = {}
        return {
            "step": step,
            "tokens": tokens,
            "seconds": round(seconds, 1),
            "learning_rate": float(f"{rate:.3g}"),
            "gradient_norm": float(f"{norm:.3g}"),
            "loss": loss,
        }
