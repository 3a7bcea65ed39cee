"""Fine-tune a model: `wkv.finetune`, and the order of a run.

A run reads the model and the data, measures before, trains, saves the tensors with the best
held-out loss, loads them from disk and measures again.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wkv.errors import TrainingError
from wkv.evaluate.peak_memory import peak_bytes
from wkv.files import atomic_write
from wkv.inference.model import Model
from wkv.models.parts import Skeleton
from wkv.train.loop import Loop, Report, run_in_folder, stop_signal
from wkv.train.optimizer import ProcessGroup
from wkv.train.processes import joined_group, start_processes
from wkv.train.run_folder import RunFolder
from wkv.train.tuning.describe import data_line, example_lines, memory_line, model_line
from wkv.train.tuning.measure import Layers
from wkv.train.tuning.options import OPTION_NAMES, TuningOptions
from wkv.train.tuning.proof import Proof, forgotten, turns_table
from wkv.train.tuning.result import Saved, load_result, result_path, save_result
from wkv.train.tuning.samples import answers, questions, samples_page
from wkv.train.tuning.session import Session, TuningJob

RESULTS = ("adapter", "state.safetensors", "report.json", "samples.md")
"""Files of a run besides those of `RunFolder`."""

SAME = 1e-3
"""Difference of held-out losses up to which a loaded result counts as the same."""

Notify = Callable[[str], None]


@dataclass(frozen=True)
class FineTuned:
    """The result of a fine-tuning run.

    Attributes:
        path: the adapter folder, the state or the model; None after a dry run or an early stop.
        before: what was measured before training; None after a dry run.
        after: what was measured with the result, loaded from disk; None without one.
        report: all numbers of report.json.
        is_done: whether the run is complete; it can be resumed if not.
    """

    path: Path | None
    before: Proof | None
    after: Proof | None
    report: Mapping[str, Any] = field(default_factory=dict)
    is_done: bool = True


def finetune(
    model: str | Path | Model | None,
    data: str | Path,
    out: str | Path,
    method: str = "lora",
    *,
    resume: bool = False,
    dry_run: bool = False,
    processes: int = 1,
    threads: int | None = None,
    notify: Notify = lambda message: None,
    report: Report = lambda entry, progress: None,
    **options: Any,
) -> FineTuned:
    """Tune a model on examples, and prove what it learned and what it forgot.

    Args:
        model: a file, directory or name, as `wkv.load` accepts it, or a loaded model, whose file
            is read again; None is the built-in model.
        data: examples: text, JSON lines, Parquet, binidx or ids; see `wkv.train.examples`.
        out: the folder of the run.
        method: "lora", "state", "full", "miss" or "dora".
        resume: continue the run in `out` with its options; only those that are given change.
        dry_run: read, report and estimate, but train and write nothing.
        processes: number of processes that share the rows of a step.
        threads: number of threads of each process.
        notify: called with each line of the report.
        report: called with each line of the log, and the completed share of the run.
        options: fields of `wkv.train.tuning.options.TuningOptions`, such as `minutes` or `rank`.

    Returns:
        The result, with `before`, `after`, `path` and `report`.

    Raises:
        TrainingError: if an option is wrong, the folder cannot be used, or the run diverges.
        InputError: if the data is wrong.
        CheckpointError: if the model cannot be read.
    """
    unknown = sorted(set(options) - set(OPTION_NAMES))
    if unknown:
        raise TrainingError(
            f"{unknown[0]} is not an option; expected one of {', '.join(OPTION_NAMES)}"
        )
    group = joined_group()
    processes = processes if group is None else group.size
    folder = RunFolder(Path(out).expanduser(), RESULTS)
    given = {"method": method, **options}
    if resume:
        folder.check(resume=True)
        given |= _saved_options(folder.load()["plan"], options)
    job = TuningJob(
        model.path if isinstance(model, Model) else model,
        Path(data).expanduser(),
        folder,
        TuningOptions(**given),
        resume,
        processes,
        threads or max(1, (os.cpu_count() or 1) // processes),
    )
    if dry_run:
        return _dry_run(job, notify)
    return _run(job, group, notify, report)


def _saved_options(saved: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the run that a checkpoint belongs to, unless they are given anew."""
    found = {name: saved[name] for name in OPTION_NAMES if name in saved}
    optimizer = saved["optimizer"]
    found |= {"weight_decay": optimizer["weight_decay"], "clip": optimizer["clip"]}
    if {"steps", "minutes", "epochs"} & set(options):
        found["steps"] = found["minutes"] = None
    return {name: value for name, value in found.items() if name not in options}


def _run(job: TuningJob, group: ProcessGroup | None, notify: Notify, report: Report) -> FineTuned:
    """Run a job as process 0, or as the process of a group that was started from outside."""
    if group is not None and group.rank > 0:
        return _train_as_member(job, group)
    job.folder.prepare(job.resume)
    with run_in_folder(job.folder, job.threads, notify) as stack:
        if group is None:
            group = stack.enter_context(
                start_processes(job.processes, partial(_train_as_member, job))
            )
        stop = stack.enter_context(stop_signal())
        return Run(job, group, notify).tune(stop, report)


def _train_as_member(job: TuningJob, group: ProcessGroup) -> FineTuned:
    """Train in a process that is not process 0, which measures, reports and writes."""
    torch.set_num_threads(job.threads)
    session = Session(job, group, lambda message: None)
    _loop(session, lambda message: None).run(threading.Event(), lambda entry, progress: None)
    return FineTuned(None, None, None)


def _loop(session: Session, notify: Notify) -> Loop:
    """Return the loop of a session, after choosing the learning rate of a state."""
    job = session.job
    if session.needs_rate and not job.resume:
        session.try_rates(notify)
    return Loop(
        session.task,
        session.settings,
        job.folder,
        session.group,
        source=session.source(),
        resume=job.resume,
    )


def _dry_run(job: TuningJob, notify: Notify) -> FineTuned:
    """Read everything, report it, estimate memory and time, and stop."""
    job.folder.check(job.resume)
    torch.set_num_threads(job.threads)
    run = Run(job, ProcessGroup(0, 1), notify)
    run.introduce()
    return FineTuned(None, None, None, run.report)


class Run:
    """A run in process 0, which measures, reports and writes."""

    def __init__(self, job: TuningJob, group: ProcessGroup, notify: Notify) -> None:
        self.job, self.notify = job, notify
        self.begun = time.monotonic()
        self.session = Session(job, group, notify)
        self.report: dict[str, Any] = {}

    def introduce(self) -> None:
        """Report model, data, one example with its mask, memory and time."""
        session = self.session
        self.notify(model_line(session))
        for data in (session.data, session.mixed):
            if data is not None:
                self.notify(data_line(data, session.options))
        for line in example_lines(session):
            self.notify(line)
        rate = session.seconds_per_token()
        self.notify(memory_line(session, rate, peak_bytes()))
        self.report |= {
            "model": {
                "path": str(session.description.checkpoint.path),
                "identity": session.model.identity,
                "generation": session.model.config.generation,
                "dtype": session.strategy,
            },
            "data": {
                "path": str(self.job.data),
                "format": session.data.form,
                "fingerprint": session.data.fingerprint,
                **asdict(session.data.counts),
                "held_out": len(session.data.held_out),
            },
            "trained": sum(one.parameter.numel() for one in session.tuned.trained),
            "seconds_per_token": rate,
        }

    def tune(self, stop: threading.Event, report: Report) -> FineTuned:
        """Measure, train, save, load and measure again."""
        session, task, folder = self.session, self.session.task, self.job.folder
        self.introduce()
        asked = questions(session)
        loop: Loop | None = None
        if self.job.resume:
            loop = _loop(session, self.notify)
            before = Proof.of_record(task.before["proof"])
            said = list(task.before["samples"])
        else:
            before = self._examine(Saved(session.model), session.tuned.layers)
            said = answers(session.model, asked)
            task.before = {
                "loss": session.held_out_loss(session.few_held_out()),
                "proof": before.record(),
                "samples": said,
            }
            loop = _loop(session, self.notify)
            if session.settings.minutes is None or session.tried:
                self.notify(f"rate    {session.settings.learning_rate:g}")
        self.notify(f"before  {before.describe()}")
        is_done = loop.run(stop, report)
        if not is_done:
            self.notify(f"stopped at step {loop.step}; continue with --resume")
            return FineTuned(None, before, None, self.report, is_done=False)
        if task.stop_reason is not None:
            self.notify(f"stopped early: {task.stop_reason}")
        if session.options.keep == "best" or task.stop_reason is not None:
            task.restore_best()
        path = result_path(folder.path, session.options.method)
        trained = session.held_out_loss(session.data.held_out)
        save_result(session.tuned, session.description, path, session.notes())
        loaded = load_result(session.tuned, session.description, path, session.strategy)
        after = self._examine(loaded, loaded.layers)
        self.report |= {
            "settings": {**session.options.record(), **session.settings.record()},
            "steps": loop.step,
            "seconds": round(loop.seconds, 1),
        }
        self._conclude(before, after, trained)
        table = turns_table(before, after) if after.by_turns else ""
        new = answers(loaded.model, asked, loaded.state)
        page = samples_page(asked, said, new, table)
        _write(folder.path / "samples.md", page)
        _write(folder.path / "report.json", json.dumps(self.report, indent=2, default=str) + "\n")
        self.notify(f"samples before and after: {folder.path / 'samples.md'}")
        return FineTuned(path, before, after, self.report)

    def _examine(self, saved: Saved, layers: Layers) -> Proof:
        """Measure a model."""
        assert isinstance(saved.model.network, Skeleton)
        with self.session.task.autocast():
            return self.session.examination.of(saved.model.network, layers)

    def _conclude(self, before: Proof, after: Proof, trained: float) -> None:
        """Report the measurements after training."""
        task, options = self.session.task, self.session.options
        same = abs(trained - after.held_out.loss) <= SAME * max(1.0, trained)
        read_back = "the same" if same else f"{trained:.3f} before it was saved"
        self.notify(f"after   {after.describe()}; read back from disk: {read_back}")
        lost = forgotten(before, after)
        if lost is not None:
            advice = "--mix FILE:0.3 repeats general or earlier examples"
            if options.mix is not None:
                advice = "give --mix a larger share"
            self.notify(f"forgotten: {lost}; {advice}")
        if after.by_turns:
            self.notify("how long the state lasts:\n" + turns_table(before, after))
        self.report |= {
            "before": before.record(),
            "after": after.record(),
            "held_out_before_saving": trained,
            "best_held_out": task.best_loss,
            "rates_tried": {f"{rate:g}": loss for rate, loss in self.session.tried.items()},
            "stopped_early": task.stop_reason,
            "forgotten": lost,
            "peak_bytes": peak_bytes(),
            "total_seconds": round(time.monotonic() - self.begun, 1),
        }


def _write(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write_text(text, "utf-8"), error_type=TrainingError)
