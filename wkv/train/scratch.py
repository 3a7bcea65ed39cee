"""Training of a new model: what each process creates, and the loss.

The loss is the mean cross entropy of the targets plus the z-loss, which prevents the logits from
drifting. Matrices inside the blocks are trained with Muon, all other tensors with Adam.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wkv.models import parts
from wkv.models.parts import Skeleton
from wkv.models.rwkv7 import RWKV7, Config
from wkv.train.data import Batch, RowSource, stacked
from wkv.train.initialize import initialize
from wkv.train.initialize_older import SPEEDS, initialize_older, older_network
from wkv.train.loop import Loop, Report, run_in_folder, stop_signal
from wkv.train.loss import cross_entropy, targets_of
from wkv.train.optimizer import ProcessGroup, Trained
from wkv.train.processes import start_processes
from wkv.train.recurrence import recurrence
from wkv.train.run_folder import RunFolder
from wkv.train.schedule import Schedule
from wkv.train.settings import TrainingSettings

Z_LOSS = 1e-4
"""Weight of the squared log-sum-exp in the loss, which prevents the logits from drifting."""

MAX_HELD_OUT = 8
"""Number of held-out rows whose loss is measured for each line of the log."""


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

    config: parts.Config
    make_rows: Callable[[], RowSource]
    settings: TrainingSettings
    folder: RunFolder
    resume: bool
    source: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Sequence[bytes] = ()


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
    with run_in_folder(job.folder, job.settings.threads, notify) as stack:
        group = stack.enter_context(
            start_processes(job.settings.processes, partial(_train_as_helper, job))
        )
        stop = stack.enter_context(stop_signal())
        return _loop(job, group, notify).run(stop, report)


def _train_as_helper(job: Job, group: ProcessGroup) -> None:
    """Run the training loop in a helper process."""
    torch.set_num_threads(job.settings.threads)
    _loop(job, group, lambda message: None).run(threading.Event(), lambda entry, progress: None)


def _loop(job: Job, group: ProcessGroup, notify: Callable[[str], None]) -> Loop:
    """Create the training loop of one process."""
    task = ScratchTask(job, job.settings.rows // group.size, notify)
    return Loop(task, job.settings, job.folder, group, source=job.source, resume=job.resume)


def scratch_tensors(model: Skeleton) -> list[Trained]:
    """Return the tensors of a new model in the order of the model, and how each is trained.

    Only matrices decay. In RWKV-7, Muon trains those inside the blocks; in older generations Adam
    trains all tensors with the learning rates of the official scripts.
    """
    is_new = model.config.generation.startswith("7")
    trained = []
    for name, parameter in model.named_parameters():
        is_weight = name.endswith(".weight") and parameter.ndim == 2
        trained.append(
            Trained(
                name,
                parameter,
                speed=2.0 if name.endswith("att.w0") else SPEEDS.get(name.split(".")[-1], 1.0),
                decays=is_weight,
                uses_muon=is_new and is_weight and name.startswith("blocks."),
            )
        )
    return trained


class ScratchTask:
    """A new model of one process, its rows and its loss; see `wkv.train.loop.Task`."""

    stop_reason: str | None = None
    schedule = Schedule("linear", 0.01)

    def __init__(self, job: Job, rows_each: int, notify: Callable[[str], None]) -> None:
        wkv7, notice = recurrence(job.settings.threads)
        if notice:
            notify(notice)
        self.model: Skeleton
        if isinstance(job.config, Config):
            self.model = RWKV7(job.config, wkv7)
            initialize(self.model, job.settings.seed)
        else:
            self.model = older_network(job.config)
            initialize_older(self.model, job.settings.seed)
        self.config: Mapping[str, Any] = asdict(job.config)
        self.trained: Sequence[Trained] = scratch_tensors(self.model)
        self.rows: RowSource = job.make_rows()
        self.layers = self.model.new_layers(rows_each)
        self.loss = _loss
        if job.settings.compile and notice is None:
            self.loss = torch.compile(_loss, dynamic=False)
            for block in self.model.blocks:
                block.compile(dynamic=False)

    def backward(self, rows: Batch, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute `Task.backward`."""
        with torch.autocast("cpu", torch.bfloat16):
            X, _ = self.model(rows.inputs, self.layers)
        chosen, targets, weights = targets_of(rows)
        chosen_X = X.flatten(0, 1).index_select(0, chosen)
        loss, losses = self.loss(self.model, chosen_X, targets, weights / total)
        torch.autograd.backward(loss)
        return chosen, losses, weights

    @torch.no_grad()
    def held_out_loss(self, step: int, *, is_last: bool) -> dict[str, float]:
        """Return the mean loss of at most MAX_HELD_OUT held-out rows, by the name "held-out"."""
        held_out = self.rows.held_out
        if not held_out:
            return {}
        rows = stacked(held_out[:: math.ceil(len(held_out) / MAX_HELD_OUT)])
        targets, weights = rows.targets.flatten(), rows.weights.flatten()
        with torch.compiler.set_stance("force_eager"):  # another size would be compiled anew
            with torch.autocast("cpu", torch.bfloat16):
                X, _ = self.model(rows.inputs, self.model.new_layers(len(rows.inputs)))
            _, losses = _loss(self.model, X.flatten(0, 1), targets, weights / weights.sum())
        return {"held-out": round(losses.mean().item(), 4)}

    def state(self) -> dict[str, Any]:
        """Return nothing: tensors, optimizer and step are all that a run depends on."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""

    def export(self, folder: RunFolder) -> None:
        """Write the weights in bfloat16."""
        folder.export(self.model)


def _loss(model: Skeleton, X: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of shares times cross entropy plus z-loss, and each cross entropy (K,)."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.logits(X)
    losses, total = cross_entropy(logits, targets)
    return (losses * shares).sum() + Z_LOSS * (total.square() * shares).sum(), losses.detach()
