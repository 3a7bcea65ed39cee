"""The training loop: one process or several that share each step's rows and add up their gradients.

The calling process is number 0; it starts the others, writes the folder and follows signals.
What a step computes depends on the step's number and the weights alone, so a run of a given
number of steps can be stopped and resumed with the same result. A run of a given number of
minutes fits its schedule to the clock instead.
"""

import contextlib
import multiprocessing
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from wkv.errors import TrainingError
from wkv.models.rwkv7 import RWKV7, Config
from wkv.train.data import Batch, Rows, batch
from wkv.train.folder import RunFolder, can_plot
from wkv.train.initialise import initialise
from wkv.train.optimizer import Optimizer, Settings, Team
from wkv.train.recurrence import recurrence

Z_LOSS = 1e-4
"""Weight of the squared log-sum-exp, which keeps the logits from drifting."""

LAST_RATE = 0.01
"""The learning rate falls in a straight line to this share of its peak."""

TARGET_STEP = 512
"""Targets are padded to a multiple of this, so that only a few shapes are ever compiled."""

PATIENCE = timedelta(hours=12)
"""How long a process waits for another: long, so that a run may be paused (SIGSTOP) for hours."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train. Either `steps` or `minutes` is given.

    Attributes:
        context: tokens per row, T.
        rows: rows per step, over all processes.
        warmup: steps in which the learning rate rises.
        processes, threads: how many processes, and threads in each.
        save_seconds: time between two checkpoints.
        log_steps: steps between two lines of the log.
        compile: whether to use torch.compile when there is a C++ compiler.
    """

    steps: int | None = None
    minutes: float | None = None
    context: int = 512
    rows: int = 8
    learning_rate: float = 3e-3
    warmup: int = 100
    processes: int = 1
    threads: int = 1
    save_seconds: float = 180.0
    log_steps: int = 50
    seed: int = 0
    compile: bool = True
    optimizer: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if (self.steps is None) == (self.minutes is None):
            raise TrainingError(
                "a run has a length in steps or in minutes; give exactly one of them"
            )
        if self.rows % self.processes:
            raise TrainingError(
                f"{self.rows} rows per step cannot be shared evenly by {self.processes} processes; "
                "change one of the two numbers"
            )


@dataclass(frozen=True)
class Job:
    """All that a process needs; `make_rows` must be picklable and give equal rows everywhere."""

    config: Config
    make_rows: Callable[[], Rows]
    plan: Plan
    folder: RunFolder
    resume: bool


Report = Callable[[dict[str, Any], float], None]
"""Told each line of the log and the share of the run that is done, in [0, 1]."""


def train(job: Job, report: Report, notify: Callable[[str], None]) -> bool:
    """Train until the plan is fulfilled or a signal (SIGINT, SIGTERM) asks to stop.

    The folder then holds the checkpoint and the exported model. `notify` gets what the user
    should know. Returns whether the plan was fulfilled.

    Raises:
        TrainingError: if the folder or the data cannot be used.
    """
    job.folder.prepare(job.resume)
    if not can_plot():
        notify(
            "matplotlib is not installed, so there will be no loss.png: pip install 'wkv[train]'"
        )
    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        torch.set_num_threads(job.plan.threads)
        stack.callback(torch.set_num_threads, threads)
        team = stack.enter_context(_leader(job))
        stop = stack.enter_context(_stop_signal())
        return _Trainer(job, team, notify).run(stop, report)


@contextlib.contextmanager
def _leader(job: Job) -> Iterator[Team]:
    """Start the helpers and be number 0 among them."""
    if job.plan.processes == 1:
        yield Team()
        return
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as meeting:
        helpers = [
            spawn.Process(target=_help, args=(job, rank, meeting), daemon=True)
            for rank in range(1, job.plan.processes)
        ]
        for helper in helpers:
            helper.start()
        with _member(0, job.plan.processes, meeting) as team:
            yield team
            for helper in helpers:
                helper.join()


@contextlib.contextmanager
def _member(rank: int, size: int, meeting: str) -> Iterator[Team]:
    """Join the group of processes that meets in a folder."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}/processes",
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    try:
        yield Team(rank, size, distributed.all_reduce)
    finally:
        distributed.destroy_process_group()


def _help(job: Job, rank: int, meeting: str) -> None:
    """What a helper process does. Process 0 decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(job.plan.threads)
    with _member(rank, job.plan.processes, meeting) as team:
        _Trainer(job, team, lambda message: None).run(
            threading.Event(), lambda entry, progress: None
        )


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
        self.rows_each = job.plan.rows // team.size
        wkv7, notice = recurrence(job.plan.threads)
        if notice:
            notify(notice)
        self.model = RWKV7(job.config, wkv7)
        initialise(self.model, job.plan.seed)
        self.gradient = _flat_gradient(self.model)
        self.optimizer = Optimizer(self.model.named_parameters(), job.plan.optimizer, team)
        self.step, self.seconds = 0, 0.0
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
        state = (
            self.folder.load()
            if self.team.rank == 0
            else torch.load(self.folder.checkpoint, weights_only=True)
        )
        if state["config"] != asdict(self.model.config):
            raise TrainingError(
                f"{self.folder.checkpoint} is of a model with {state['config']}, asked for was "
                f"{asdict(self.model.config)}; give the sizes that the run was started with"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _save(self) -> None:
        if self.team.rank == 0:
            state = {
                "config": asdict(self.model.config),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state(),
                "step": self.step,
                "seconds": self.seconds,
            }
            self.folder.save(state, self.model)

    def _progress(self) -> float:
        """The share of the plan that is done, by this process's count or clock."""
        if self.plan.minutes is not None:
            return self.seconds / (60 * self.plan.minutes)
        assert self.plan.steps is not None
        return self.step / self.plan.steps

    def run(self, stop: threading.Event, report: Report) -> bool:
        """Step until done; see `train`."""
        tally = _Tally()
        clock = saved = time.monotonic()
        while True:
            progress, should_stop = self._agree(stop)
            if progress >= 1 or should_stop:
                self._save()
                return progress >= 1
            rate, norm = self._one_step(progress, tally)
            now = time.monotonic()
            self.seconds += now - clock
            clock = now
            if self.team.rank == 0 and self.step % self.plan.log_steps == 0:
                entry = tally.entry(
                    self.step,
                    self.step * self.plan.rows * self.plan.context,
                    self.seconds,
                    rate,
                    norm,
                )
                self.folder.append(entry)
                report(entry, progress)
            if now - saved > self.plan.save_seconds:
                self._save()
                saved = now

    def _agree(self, stop: threading.Event) -> tuple[float, bool]:
        """Process 0's progress and whether it was asked to stop, known to all."""
        message = torch.zeros(2, dtype=torch.float64)
        if self.team.rank == 0:
            message[0], message[1] = self._progress(), float(stop.is_set())
        self.team.add_up(message)
        return message[0].item(), bool(message[1])

    def _one_step(self, progress: float, tally: "_Tally") -> tuple[float, float]:
        """Forward, backward, update; the learning rate and the gradient's norm."""
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
        rate = self.plan.learning_rate * warm * max(LAST_RATE, 1 - progress)
        norm = self.optimizer.step(rate)
        self.step += 1
        tally.add(rows, chosen, losses, weights)
        return rate, norm


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
