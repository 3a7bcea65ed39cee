"""Read and write the folder of a training run.

checkpoint.pt       everything that a resumed run needs; it is replaced atomically
model.safetensors   the exported model: weights in bfloat16 under their official names
model.vocab.txt     the vocabulary, if the run has created one
log.jsonl           the loss log, one line every few steps
loss.png            a plot of the losses in the log
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from wkv.errors import TrainingError
from wkv.files import atomic_write, write_errors
from wkv.train.make_vocabulary import write_vocabulary

PARTS = {"plan", "config", "model", "optimizer", "step", "seconds"}
"""Keys of a checkpoint. Values are dicts, tensors and numbers, which `weights_only` can load."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a training run, with methods that read and write its files.

    Attributes:
        path: the folder.
        results: names of further files and folders of a run, which a new run does not overwrite.
    """

    path: Path
    results: tuple[str, ...] = ()

    @property
    def checkpoint(self) -> Path:
        """The path of the checkpoint."""
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        """The path of the loss log."""
        return self.path / "log.jsonl"

    @property
    def model(self) -> Path:
        """The path of the exported model."""
        return self.path / "model.safetensors"

    @property
    def vocabulary(self) -> Path:
        """The path of the model's vocabulary, where `wkv.load` finds it."""
        return self.path / "model.vocab.txt"

    @property
    def plotted(self) -> Path:
        """The path of the loss plot."""
        return self.path / "loss.png"

    @property
    def files(self) -> list[Path]:
        """The paths of all files of a run."""
        own = [self.checkpoint, self.model, self.vocabulary, self.log, self.plotted]
        return own + [self.path / name for name in self.results]

    def check(self, resume: bool) -> None:
        """Check that there is a run to resume, or that a new run would not overwrite files.

        Raises:
            TrainingError: if the checkpoint to resume is missing, or files would be overwritten.
        """
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"{self.path} is a file; give a folder for the run")
        has_checkpoint = self.checkpoint.exists()
        if resume and not has_checkpoint:
            raise TrainingError(
                f"{self.path} has no checkpoint.pt to resume from; omit --resume to start a run"
            )
        found = [path.name for path in self.files if path.exists()]
        if not resume and has_checkpoint:
            raise TrainingError(
                f"{self.path} contains a run already; give --resume to continue, or another folder"
            )
        if not resume and found:
            raise TrainingError(
                f"{self.path} contains {' and '.join(found)}, which the run would overwrite; "
                "move the files away, or give another folder"
            )

    def prepare(self, resume: bool, vocabulary: Sequence[bytes] = ()) -> None:
        """Create the folder with a vocabulary and an empty log, after calling `check`.

        Raises:
            TrainingError: as `check`, and if the folder cannot be created.
        """
        self.check(resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"the folder {self.path} cannot be created ({error.strerror}); give another one"
            ) from error
        if not resume:
            self.log.write_text("")
            if vocabulary:
                write_vocabulary(vocabulary, self.vocabulary)

    def clear(self) -> None:
        """Remove the files of a run that failed before its first checkpoint."""
        for path in self.files:
            if not path.is_dir():
                path.unlink(missing_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint and the plot."""
        _replace(self.checkpoint, lambda path: torch.save(state, path))
        self.plot()

    def export(self, model: nn.Module) -> None:
        """Write the weights of a model in bfloat16."""
        tensors = {
            name: value.detach().bfloat16().contiguous()
            for name, value in model.state_dict().items()
        }
        _replace(self.model, lambda path: path.write_bytes(save(tensors)))

    def load(self) -> dict[str, Any]:
        """Read the checkpoint.

        Raises:
            TrainingError: if it is damaged, or another version of wkv has written it.
        """
        try:
            state = torch.load(self.checkpoint, weights_only=True)
        except Exception as error:  # for a damaged pickle the unpickler can raise any type of error
            raise TrainingError(
                f"{self.checkpoint} is damaged ({type(error).__name__}), so the run cannot be "
                "resumed; restore the file, or start in another folder"
            ) from error
        if not isinstance(state, dict) or not set(state) >= PARTS:
            raise TrainingError(
                f"{self.checkpoint} is not of this version of wkv, which expects a checkpoint with "
                f"{', '.join(sorted(PARTS))}; start in another folder"
            )
        return state

    def rewind(self, step: int) -> None:
        """Remove the entries of the log after a step.

        Raises:
            TrainingError: if the log is damaged.
        """
        entries = [entry for entry in self.entries() if entry["step"] <= step]
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        _replace(self.log, lambda path: path.write_text(text))

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of the log, without a last line that a crash has left incomplete.

        Raises:
            TrainingError: if the log is damaged.
        """
        try:
            text = self.log.read_text(encoding="utf-8")
            entries = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
            if not all({"step", "tokens", "loss"} <= set(entry) for entry in entries):
                raise ValueError("a line has no step, tokens and loss")
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(
                f"{self.log} cannot be read as the log of a run ({error}); "
                "restore it, or put an empty file in its place"
            ) from error
        return entries

    def append(self, entry: dict[str, Any]) -> None:
        """Append an entry to the log."""
        with write_errors(self.log, TrainingError), self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def plot(self) -> None:
        """Plot each source's losses against the number of tokens, if matplotlib is installed."""
        if not can_plot():
            return
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter

        entries = self.entries()
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for source in sorted({source for entry in entries for source in entry["loss"]}):
            points = [
                (entry["tokens"] / 1e6, entry["loss"][source])
                for entry in entries
                if source in entry["loss"]
            ]
            axes.plot(*zip(*points, strict=True), label=source, marker="o", markersize=3)
        axes.set(xlabel="tokens (millions)", ylabel="loss (nats per token)", yscale="log")
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if entries:
            axes.legend()
        _replace(self.plotted, lambda path: figure.savefig(path, format="png", dpi=120))


def can_plot() -> bool:
    """Check whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically."""
    atomic_write(target, write, error_type=TrainingError)
