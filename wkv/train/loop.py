"""The training loop, for one process or several that share the rows of each step.

Several processes add up their gradients. The calling process is number 0: it starts the others,
writes the files, handles signals and detects divergence, and the others end when it ends.

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
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wkv.errors import TrainingError, install_command
from wkv.models.rwkv7 import RWKV7, Config
from wkv.train.data import Batch, RowSource, batch, stacked
from wkv.train.initialize import initialize
from wkv.train.optimizer import Optimizer, ProcessGroup
from wkv.train.processes import start_processes
from wkv.train.recurrence import recurrence
from wkv.train.run_folder import RunFolder, can_plot
from wkv.train.settings import TrainingSettings, check_same

Z_LOSS = 1e-4
"""Weight of the squared log-sum-exp in the loss, which prevents the logits from drifting."""

LAST_RATE = 0.01
"""The share of its peak to which the learning rate decreases linearly."""

MAX_HELD_OUT = 8
"""Number of held-out rows whose loss is measured for each line of the log."""

TARGET_STEP = 512
"""Targets are padded to a multiple of this number, so that only a few shapes are compiled."""


@dataclass(frozen=True)
class Job:
    """The description of a training run, from which each process creates its part.

    Attributes:
        config: sizes of the model.
        make_rows: returns the source of rows. It must be picklable and return equal rows in each
            process; it is called after the vocabulary file was written.
        settings: the settings of the run.
        folder: the folder of the run.
        resume: whether to continue from the folder's checkpoint.
        source: origin of the rows and sizes of the model, by option name. A run can be resumed
            only with equal values.
        vocabulary: tokens that are written to the folder's vocabulary file when a run starts.
    """

    config: Config
    make_rows: Callable[[], RowSource]
    settings: TrainingSettings
    folder: RunFolder
    resume: bool
    source: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Sequence[bytes] = ()


Report = Callable[[dict[str, Any], float], None]
"""A callback for each line of the log and the completed share of the run, in [0, 1]."""


def train(job: Job, report: Report, notify: Callable[[str], None]) -> bool:
    """Train until the run is complete or the process receives SIGINT or SIGTERM.

    Afterwards the folder contains the checkpoint and the exported model. A run that fails before
    its first checkpoint leaves no files, so that it can be started again.

    Args:
        job: the description of the run.
        report: called for each line of the log.
        notify: called with messages for the user.

    Returns:
        Whether the run is complete.

    Raises:
        TrainingError: if the folder or the data cannot be used, or the run diverges.
    """
    job.folder.prepare(job.resume, job.vocabulary)
    if not can_plot():
        command = install_command("train")
        notify(f"matplotlib is not installed, so there will be no loss.png; run: {command}")
    threads = torch.get_num_threads()
    try:
        with contextlib.ExitStack() as stack:
            torch.set_num_threads(job.settings.threads)
            stack.callback(torch.set_num_threads, threads)
            group = stack.enter_context(
                start_processes(job.settings.processes, partial(_train_as_helper, job))
            )
            stop = stack.enter_context(_stop_signal())
            return _Trainer(job, group, notify).run(stop, report)
    except BaseException:
        if not job.folder.checkpoint.exists():
            job.folder.clear()
        raise


def _train_as_helper(job: Job, group: ProcessGroup) -> None:
    """Run the training loop in a helper process."""
    torch.set_num_threads(job.settings.threads)
    _Trainer(job, group, lambda message: None).run(threading.Event(), lambda entry, progress: None)


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
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


class _Trainer:
    """The training loop of one process: its model, optimizer and current step."""

    def __init__(self, job: Job, group: ProcessGroup, notify: Callable[[str], None]) -> None:
        self.settings, self.folder, self.group = job.settings, job.folder, group
        self.record = {**job.settings.record(), **job.source}
        self.rows_each = job.settings.rows // group.size
        wkv7, notice = recurrence(job.settings.threads)
        if notice:
            notify(notice)
        self.model = RWKV7(job.config, wkv7)
        initialize(self.model, job.settings.seed)
        self.gradient = _flat_gradient(self.model)
        self.optimizer = Optimizer(self.model.named_parameters(), job.settings.optimizer, group)
        self.step, self.seconds = 0, 0.0
        self.rate = self.norm = 0.0
        self.tally = _Tally()
        if job.resume:
            self._load()
        self.rows = job.make_rows()
        self.layers = self.model.new_layers(self.rows_each)
        self.loss = _loss
        if job.settings.compile and notice is None:
            self.loss = torch.compile(_loss, dynamic=False)
            for block in self.model.blocks:
                block.compile(dynamic=False)

    def _load(self) -> None:
        state = self.folder.load()
        path, config = self.folder.checkpoint, asdict(self.model.config)
        check_same(path, state["plan"], self.record)
        if state["config"] != config:
            raise TrainingError(
                f"{path} is of a model with {state['config'].get('vocab_size')} ids, but "
                f"{self.folder.vocabulary} has {config['vocab_size']}; restore that file"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        if self.group.rank == 0:
            self.folder.rewind(self.step)

    def _save(self) -> None:
        if self.group.rank == 0:
            if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
                raise self._diverged("the weights are")
            state = {
                "plan": self.record,
                "config": asdict(self.model.config),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state(),
                "step": self.step,
                "seconds": self.seconds,
            }
            self.folder.save(state, self.model)

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
        """Train until the run is complete or `stop` is set; see `train`."""
        clock = saved = time.monotonic()
        warming_up = True
        while True:
            progress, should_stop = self._agree(stop)
            if progress >= 1 or should_stop:
                if self.tally.sums:
                    self._log(report, progress)
                self._save()
                return progress >= 1
            self._one_step(progress)
            now = time.monotonic()
            if not warming_up:  # the first step compiles, which the schedule does not count
                self.seconds += now - clock
            warming_up = False
            clock = now
            if self.step % self.settings.log_steps == 0:
                self._log(report, progress)
            if now - saved > self.settings.save_seconds:
                self._save()
                saved = now

    def _log(self, report: Report, progress: float) -> None:
        """Append a line to the log and report it."""
        tokens = self.step * self.settings.rows * self.settings.context
        entry = self.tally.entry(self.step, tokens, self.seconds, self.rate, self.norm)
        if self.group.rank == 0:
            entry["loss"] |= self._held_out_loss()
            self.folder.append(entry)
            report(entry, min(progress, 1.0))

    @torch.no_grad()
    def _held_out_loss(self) -> dict[str, float]:
        """Return the mean loss of at most MAX_HELD_OUT held-out rows, by the name "held-out"."""
        held_out = self.rows.held_out
        if not held_out:
            return {}
        rows = stacked(held_out[:: math.ceil(len(held_out) / MAX_HELD_OUT)])
        targets, weights = rows.targets.flatten(), rows.weights.flatten()
        with torch.compiler.set_stance("force_eager"):  # another size would be compiled anew
            with torch.autocast("cpu", torch.bfloat16):
                X, _ = self.model(rows.inputs, self.model.new_layers(len(rows.inputs)))
            _, losses = _loss(self.model, X.flatten(0, 1), targets, weights)
        return {"held-out": round(losses.mean().item(), 4)}

    def _agree(self, stop: threading.Event) -> tuple[float, bool]:
        """Return process 0's progress and whether it should stop, the same in every process."""
        message = torch.zeros(2, dtype=torch.float64)
        if self.group.rank == 0:
            message[0], message[1] = self._progress(), float(stop.is_set())
        self.group.all_reduce(message)
        return message[0].item(), bool(message[1])

    def _one_step(self, progress: float) -> None:
        """Run one training step: forward pass, backward pass and update of the weights."""
        first = self.step * self.settings.rows + self.group.rank * self.rows_each
        rows = batch(self.rows, first, self.rows_each)
        self.gradient.zero_()
        with torch.autocast("cpu", torch.bfloat16):
            X, _ = self.model(rows.inputs, self.layers)
        chosen, targets, weights = _targets(rows)
        loss, losses = self.loss(
            self.model, X.flatten(0, 1).index_select(0, chosen), targets, weights
        )
        torch.autograd.backward(loss / self.group.size)
        self.group.all_reduce(self.gradient)
        warm = min(1.0, (self.step + 1) / self.settings.warmup)
        self.rate = self.settings.learning_rate * warm * max(LAST_RATE, 1 - progress)
        self.norm = self.optimizer.step(self.rate)
        if not math.isfinite(self.norm) and self.group.rank == 0:
            # The helpers have not updated their weights either, and end with process 0.
            raise self._diverged("the gradient is")
        self.step += 1
        self.tally.add(rows, chosen, losses, weights)


def _flat_gradient(model: RWKV7) -> Tensor:
    """Set each parameter's gradient to a view of one flat tensor, and return that tensor."""
    parameters = list(model.parameters())
    flat = torch.zeros(sum(parameter.numel() for parameter in parameters))
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat


def _targets(rows: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Select the targets with a weight above 0, padded to a multiple of TARGET_STEP.

    The head is the largest matrix of a small model, so it is computed for these targets only.

    Returns:
        Positions in the flattened batch, ids, and weights, (K,) each; padding has weight 0.
    """
    weights = rows.weights.flatten()
    chosen = torch.nonzero(weights)[:, 0]
    chosen = torch.nn.functional.pad(chosen, (0, -len(chosen) % TARGET_STEP))
    counts = weights[chosen]
    counts[int((weights > 0).sum()) :] = 0
    return chosen, rows.targets.flatten()[chosen], counts


def _loss(model: RWKV7, X: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean cross entropy plus z-loss, and each target's cross entropy (K,)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(X)
    total = logits.logsumexp(-1)
    losses = total - logits.gather(1, targets[:, None])[:, 0]
    share = weights / weights.sum()
    return (losses * share).sum() + Z_LOSS * (total.square() * share).sum(), losses.detach()


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
