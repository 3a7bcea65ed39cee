"""The folder of a training run: checkpoint, exported model, loss log and loss plot.

    checkpoint.pt       everything a resumed run needs; replaced in one move, so never half written
    model.safetensors   the weights in bfloat16 under their official names
    log.jsonl           one line every few steps
    loss.png            the losses of the log
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
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

    def prepare(self, resume: bool) -> None:
        """Make the folder.

        Raises:
            TrainingError: if there is a run that nobody asked to resume, or none to resume.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if resume and not self.checkpoint.exists():
            raise TrainingError(f"{self.path} holds no checkpoint.pt to resume from; leave out --resume to start")
        if not resume and self.checkpoint.exists():
            raise TrainingError(f"{self.path} holds a run already; give --resume to go on with it, or another folder")
        if not resume:
            self.log.write_text("")

    def save(self, state: dict, model: nn.Module) -> None:
        """Write checkpoint, exported model and plot."""
        _replace(self.checkpoint, lambda path: torch.save(state, path))
        tensors = {name: value.detach().bfloat16().contiguous() for name, value in model.state_dict().items()}
        _replace(self.model, lambda path: save_file(tensors, path))
        self.plot()

    def load(self) -> dict:
        """Read the checkpoint and drop what the log holds beyond it."""
        state = torch.load(self.checkpoint, weights_only=True)
        entries = [entry for entry in self.entries() if entry["step"] <= state["step"]]
        self.log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return state

    def entries(self) -> list[dict]:
        """The log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def append(self, entry: dict) -> None:
        """Add a line to the log."""
        with self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def plot(self) -> None:
        """Draw the losses of each source of rows over the tokens seen."""
        from matplotlib.figure import Figure

        entries = self.entries()
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for source in sorted({source for entry in entries for source in entry["loss"]}):
            points = [(entry["tokens"] / 1e6, entry["loss"][source]) for entry in entries if source in entry["loss"]]
            axes.plot(*zip(*points, strict=True), label=source)
        axes.set(xlabel="tokens (millions)", ylabel="loss (nats per token)", yscale="log")
        if entries:
            axes.legend()
        _replace(self.path / "loss.png", lambda path: figure.savefig(path, format="png", dpi=120))


def _replace(target: Path, write) -> None:
    """Write a file beside the target, then move it there."""
    beside = target.with_name(target.name + ".part")
    write(beside)
    os.replace(beside, target)
