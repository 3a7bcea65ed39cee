"""The folder of a training run: checkpoint, exported model, loss log and loss plot.

checkpoint.pt       everything a resumed run needs; replaced in one move, so never half written
model.safetensors   the weights in bfloat16 under their official names
log.jsonl           one line every few steps
loss.png            the losses of the log
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from wkv.errors import TrainingError


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes the files of a run."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies."""
        return self.path / "checkpoint.pt"

    @property
    def log(self) -> Path:
        """Where the loss log lies."""
        return self.path / "log.jsonl"

    @property
    def model(self) -> Path:
        """Where the exported model lies."""
        return self.path / "model.safetensors"

    def check(self, resume: bool) -> None:
        """Check that there is a run to resume, or none that would be lost.

        Raises:
            TrainingError: if it is the other way round.
        """
        if resume and not self.checkpoint.exists():
            raise TrainingError(
                f"{self.path} holds no checkpoint.pt to resume from; leave out --resume to start"
            )
        if not resume and self.checkpoint.exists():
            raise TrainingError(
                f"{self.path} holds a run already; give --resume to go on, or another folder"
            )

    def prepare(self, resume: bool) -> None:
        """Make the folder, after the same check."""
        self.check(resume)
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.log.write_text("")

    def save(self, state: dict[str, Any], model: nn.Module) -> None:
        """Write checkpoint, exported model and plot."""
        _replace(self.checkpoint, lambda path: torch.save(state, path))
        tensors = {
            name: value.detach().bfloat16().contiguous()
            for name, value in model.state_dict().items()
        }
        _replace(self.model, lambda path: path.write_bytes(save(tensors)))
        self.plot()

    def load(self) -> dict[str, Any]:
        """Read the checkpoint and drop what the log holds beyond it."""
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        entries = [entry for entry in self.entries() if entry["step"] <= state["step"]]
        self.log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return state

    def entries(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def append(self, entry: dict[str, Any]) -> None:
        """Add a line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def plot(self) -> None:
        """Draw the losses of each source over the tokens seen, where matplotlib is at hand."""
        if not can_plot():
            return
        from matplotlib.figure import Figure

        entries = self.entries()
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for source in sorted({source for entry in entries for source in entry["loss"]}):
            points = [
                (entry["tokens"] / 1e6, entry["loss"][source])
                for entry in entries
                if source in entry["loss"]
            ]
            axes.plot(*zip(*points, strict=True), label=source)
        axes.set(xlabel="tokens (millions)", ylabel="loss (nats per token)", yscale="log")
        if entries:
            axes.legend()
        _replace(self.path / "loss.png", lambda path: figure.savefig(path, format="png", dpi=120))


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside the target, then move it there."""
    beside = target.with_name(target.name + ".part")
    write(beside)
    os.replace(beside, target)
