"""The settings of a training run: their limits, and which of them a resumed run may change."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from wkv.errors import TrainingError
from wkv.train.optimizer import OptimizerSettings

LARGEST = 2**63 - 1
LIMITS = {
    "steps": (1, LARGEST),
    "context": (1, 2**20),
    "rows": (1, 2**16),
    "warmup": (1, LARGEST),
    "processes": (1, 1024),
    "threads": (1, 1024),
    "log_steps": (1, LARGEST),
    "seed": (0, LARGEST),
    "layers": (1, 1024),
    "width": (64, 2**16),
    "vocab_size": (257, 2**20),  # at least id 0 and all single bytes
}
"""The smallest and largest values of options that are whole numbers."""

POSITIVE = ("minutes", "learning_rate", "save_seconds")
"""Settings that must be greater than 0."""

NOT_SAVED = ("threads", "save_seconds", "log_steps", "compile")
"""Settings that do not affect the result."""

CHANGEABLE = ("steps", "minutes", "learning_rate", "processes")
"""Options that a resumed run may change. Others would repeat rows, or need another model."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings of a training run. Exactly one of `steps` and `minutes` is given.

    Attributes:
        steps: length of the run in steps.
        minutes: length of the run in minutes.
        context: tokens per row, T.
        rows: rows per step, over all processes.
        learning_rate: peak of the learning rate.
        warmup: number of steps in which the learning rate increases.
        processes, threads: number of processes, and number of threads in each of them.
        save_seconds: seconds between two checkpoints.
        log_steps: steps between two lines of the log.
        seed: seed of the initial weights and the rows.
        compile: whether to use torch.compile if there is a C++ compiler.
        optimizer: settings of the optimizer.

    Raises:
        TrainingError: if a number is out of range.
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
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        """Check all fields."""
        if (self.steps is None) == (self.minutes is None):
            raise TrainingError(
                "the length of a run is given in steps or in minutes; give exactly one of them"
            )
        for part in fields(self):
            value = getattr(self, part.name)
            if value is not None and part.name in LIMITS:
                check_whole(part.name, value)
            if value is not None and part.name in POSITIVE and not 0 < value < math.inf:
                raise TrainingError(f"{option(part.name)} is {value}; give a number above 0")
        if self.rows % self.processes:
            raise TrainingError(
                f"--rows {self.rows} cannot be divided evenly among --processes {self.processes}; "
                "change one of the two numbers"
            )

    def record(self) -> dict[str, Any]:
        """Return the fields that determine the result, as a checkpoint stores them."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_SAVED}


def option(name: str) -> str:
    """Return the command line option of a field; the data is the positional argument DATA."""
    return "DATA" if name == "data" else "--" + name.replace("_", "-")


def check_whole(name: str, value: int) -> None:
    """Check that an option is a whole number within its LIMITS.

    Raises:
        TrainingError: if it is out of range.
    """
    least, largest = LIMITS[name]
    if not isinstance(value, int) or not least <= value <= largest:
        raise TrainingError(
            f"{option(name)} is {value}; give a whole number from {least} to {largest}"
        )


def choose(
    given: Mapping[str, Any], saved: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Choose the value of every option in `defaults`: the given one, else the saved one, else that.

    None means that a value is not given. `steps` and `minutes` are alternatives: if one of them is
    given or saved, it replaces the other.
    """
    layers = [
        {name: value for name, value in layer.items() if name in defaults and value is not None}
        for layer in (defaults, saved, given)
    ]
    chosen: dict[str, Any] = dict.fromkeys(defaults)
    for layer in layers:
        if {"steps", "minutes"} & set(layer):
            chosen |= {"steps": None, "minutes": None}
        chosen |= layer
    return chosen


def check_same(path: object, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that the options of a resumed run equal the saved ones, except those in CHANGEABLE.

    Raises:
        TrainingError: if others differ; the message names them.
    """
    differing = [
        f"{option(name)} {saved.get(name)}, not {value}"
        for name, value in wanted.items()
        if name not in CHANGEABLE and saved.get(name) != value
    ]
    if differing:
        raise TrainingError(
            f"{path} was trained with {'; '.join(differing)}; "
            "resume with the same options, or start in another folder"
        )
