"""The training loop: one process or several that share each step's rows and add up their gradients.

The calling process is number 0; it starts the others, writes the folder and follows signals.
It alone finds that a run has diverged, and the others end with it.
What a step computes depends on the step's number and the weights alone, so a run of a given
number of steps can be stopped and resumed with the same result. A run of a given number of
minutes fits its schedule to the clock instead.
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

from wkv.errors import TrainingError
from wkv.models.rwkv7 import RWKV7, Config
from wkv.train.data import Batch, Rows, batch
from wkv.train.initialize import initialize
from wkv.train.optimizer import Optimizer, Team
from wkv.train.processes import lead
from wkv.train.recurrence import recurrence
from wkv.train.run_folder import RunFolder, can_plot
from wkv.train.settings import Plan, check_same

Z_LOSS = 1e-4
"""Weight of the squared log-sum-exp, which keeps the logits from drifting."""

LAST_RATE = 0.01
"""The learning rate falls in a straight line to this share of its peak."""

TARGET_STEP = 512
"""Targets are padded to a multiple of this, so that only a few shapes are ever compiled."""


@dataclass(frozen=True)
class Job:
    """All that a process needs.

    Attributes:
        make_rows: must be picklable and give equal rows everywhere; called when the vocabulary
            file is written.
        source: what the rows and the model are made of, under the names of the options; a run
            is resumed only with the same.
        vocabulary: the tokens to write as the folder's vocabulary file when the run starts.
    """

    config: Config
    make_rows: Callable[[], Rows]
    plan: Plan
    folder: RunFolder
    resume: bool
    source: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Sequence[bytes] = ()


Report = Callable[[dict[str, Any], float], None]
"""Told each line of the log and the share of the run that is done, in [0, 1]."""


def train(job: Job, report: Report, notify: Callable[[str], None]) -> bool:
    """Train until the plan is fulfilled or a signal (SIGINT, SIGTERM) asks to stop.

    The folder then holds the checkpoint and the exported model. `notify` gets what the user
    should know. Returns whether the plan was fulfilled. A run that fails before its first
    checkpoint leaves no files, so that it can be started again.

    Raises:
        TrainingError: if the folder or the data cannot be used, or the run diverges.
    """
    job.folder.prepare(job.resume, job.vocabulary)
    if not can_plot():
        notify(
            "matplotlib is not installed, so there will be no loss.png: pip install 'wkv[train]'"
        )
    threads = torch.get_num_threads()
    try:
        with contextlib.ExitStack() as stack:
            torch.set_num_threads(job.plan.threads)
            stack.callback(torch.set_num_threads, threads)
            team = stack.enter_context(lead(job.plan.processes, partial(_assist, job)))
            stop = stack.enter_context(_stop_signal())
            return _Trainer(job, team, notify).run(stop, report)
    except BaseException:
        if not job.folder.checkpoint.exists():
            job.folder.clear()
        raise


def _assist(job: Job, team: Team) -> None:
    """What a helper process does."""
    torch.set_num_threads(job.plan.threads)
    _Trainer(job, team, lambda message: None).run(threading.Event(), lambda entry, progress: None)


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; outside the main thread nothing sets it."""
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
    """One process's model, optimizer and place in the run."""

    def __init__(self, job: Job, team: Team, notify: Callable[[str], None]) -> None:
        self.plan, self.folder, self.team = job.plan, job.folder, team
        self.record = {**job.plan.record(), **job.source}
        self.rows_each = job.plan.rows // team.size
        wkv7, notice = recurrence(job.plan.threads)
        if notice:
            notify(notice)
        self.model = RWKV7(job.config, wkv7)
        initialize(self.model, job.plan.seed)
        self.gradient = _flat_gradient(self.model)
        self.optimizer = Optimizer(self.model.named_parameters(), job.plan.optimizer, team)
        self.step, self.seconds = 0, 0.0
        self.rate = self.norm = 0.0
        self.tally = _Tally()
        if job.resume:
            self._load()
        self.rows = job.make_rows()
        self.layers = self.model.new_layers(self.rows_each)
        self.loss = _loss
        if job.plan.compile and notice is None:
            self.loss = torch.compile(_loss, dynamic=False)
            for block in self.model.blocks:
                block.compile(dynamic=False)

    def _load(self) -> None:
        state = self.folder.load()
        where, config = self.folder.checkpoint, asdict(self.model.config)
        check_same(where, state["plan"], self.record)
        if state["config"] != config:
            raise TrainingError(
                f"{where} is of a model with {state['config'].get('vocab_size')} ids, but "
                f"{self.folder.vocabulary} gives {config['vocab_size']}; restore that file"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        if self.team.rank == 0:
            self.folder.rewind(self.step)

    def _save(self) -> None:
        if self.team.rank == 0:
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

    def _diverged(self, what: str) -> TrainingError:
        kept = self.folder.checkpoint
        advice = f"resume from {kept}" if kept.exists() else "start again"
        return TrainingError(
            f"the run has diverged: {what} no longer finite after step {self.step}; "
            f"{advice} with a lower --learning-rate than {self.plan.learning_rate:g}"
        )

    def _progress(self) -> float:
        """The share of the plan that is done, by this process's count or clock."""
        if self.plan.minutes is not None:
            return self.seconds / (60 * self.plan.minutes)
        assert self.plan.steps is not None
        return self.step / self.plan.steps

    def run(self, stop: threading.Event, report: Report) -> bool:
        """Step until done; see `train`."""
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
            if not warming_up:  # the first step compiles, which is no time of the schedule
                self.seconds += now - clock
            warming_up = False
            clock = now
            if self.step % self.plan.log_steps == 0:
                self._log(report, progress)
            if now - saved > self.plan.save_seconds:
                self._save()
                saved = now

    def _log(self, report: Report, progress: float) -> None:
        """Write the next line of the log."""
        tokens = self.step * self.plan.rows * self.plan.context
        entry = self.tally.entry(self.step, tokens, self.seconds, self.rate, self.norm)
        if self.team.rank == 0:
            self.folder.append(entry)
            report(entry, min(progress, 1.0))

    def _agree(self, stop: threading.Event) -> tuple[float, bool]:
        """Process 0's progress and whether it was asked to stop, known to all."""
        message = torch.zeros(2, dtype=torch.float64)
        if self.team.rank == 0:
            message[0], message[1] = self._progress(), float(stop.is_set())
        self.team.add_up(message)
        return message[0].item(), bool(message[1])

    def _one_step(self, progress: float) -> None:
        """Forward, backward, update."""
        first = self.step * self.plan.rows + self.team.rank * self.rows_each
        rows = batch(self.rows, first, self.rows_each)
        self.gradient.zero_()
        with torch.autocast("cpu", torch.bfloat16):
            X, _ = self.model(rows.inputs, self.layers)
        chosen, targets, weights = _targets(rows)
        loss, losses = self.loss(
            self.model, X.flatten(0, 1).index_select(0, chosen), targets, weights
        )
        torch.autograd.backward(loss / self.team.size)
        self.team.add_up(self.gradient)
        warm = min(1.0, (self.step + 1) / self.plan.warmup)
        self.rate = self.plan.learning_rate * warm * max(LAST_RATE, 1 - progress)
        self.norm = self.optimizer.step(self.rate)
        if not math.isfinite(self.norm) and self.team.rank == 0:
            # The helpers have changed nothing either, and end with process 0.
            raise self._diverged("the gradient is")
        self.step += 1
        self.tally.add(rows, chosen, losses, weights)


def _flat_gradient(model: RWKV7) -> Tensor:
    """Give every parameter a gradient that is a view into one tensor, and return that tensor."""
    parameters = list(model.parameters())
    flat = torch.zeros(sum(parameter.numel() for parameter in parameters))
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return flat


def _targets(rows: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Places, ids and weights of the targets that count, padded to a multiple of TARGET_STEP.

    The head is the widest matrix of a small model; places whose loss is not wanted skip it.
    """
    weights = rows.weights.flatten()
    chosen = torch.nonzero(weights)[:, 0]
    chosen = torch.nn.functional.pad(chosen, (0, -len(chosen) % TARGET_STEP))
    counts = weights[chosen]
    counts[int((weights > 0).sum()) :] = 0
    return chosen, rows.targets.flatten()[chosen], counts


def _loss(model: RWKV7, X: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean cross entropy plus the z-loss; and the cross entropy of each target (K,)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(X)
    total = logits.logsumexp(-1)
    losses = total - logits.gather(1, targets[:, None])[:, 0]
    share = weights / weights.sum()
    return (losses * share).sum() + Z_LOSS * (total.square() * share).sum(), losses.detach()


class _Tally:
    """Mean losses of each source of rows since the last line of the log."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, rows: Batch, chosen: Tensor, losses: Tensor, weights: Tensor) -> None:
        """Count a step."""
        row_of = chosen // rows.inputs.shape[1]
        pairs = torch.stack([losses * weights, weights], dim=1)
        per_row = torch.zeros(len(rows.sources), 2).index_add_(0, row_of, pairs)
        for source, pair in zip(rows.sources, per_row, strict=True):
            self.sums[source] = self.sums.get(source, torch.zeros(2)) + pair

    def entry(
        self, step: int, tokens: int, seconds: float, rate: float, norm: float
    ) -> dict[str, Any]:
        """A line of the log; starts anew."""
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
