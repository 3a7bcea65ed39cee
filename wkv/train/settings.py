"""How to train: the numbers of a run, checked, and which of them a resumed run may change."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from wkv.errors import TrainingError
from wkv.train.optimizer import Settings

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
    "vocab_size": (257, 2**20),  # id 0 and all bytes, at least
}
"""The least and the largest value of whole numbers."""

POSITIVE = ("minutes", "learning_rate", "save_seconds")
NOT_SAVED = ("threads", "save_seconds", "log_steps", "compile")
"""Fields of a plan that do not bear upon the result."""

CHANGEABLE = ("steps", "minutes", "learning_rate", "processes")
"""What a resumed run may be told anew. Anything else would repeat rows, or is of another model."""


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

    Raises:
        TrainingError: if a number is out of its range.
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
        for part in fields(self):
            value = getattr(self, part.name)
            if value is not None and part.name in LIMITS:
                check_whole(part.name, value)
            if value is not None and part.name in POSITIVE and not 0 < value < math.inf:
                raise TrainingError(f"{option(part.name)} is {value}; give a number above 0")
        if self.rows % self.processes:
            raise TrainingError(
                f"--rows {self.rows} cannot be shared evenly by --processes {self.processes}; "
                "change one of the two numbers"
            )

    def record(self) -> dict[str, Any]:
        """The fields that define the result, as a checkpoint holds them."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_SAVED}


def option(name: str) -> str:
    """How a user names a field; the data are an argument without a name."""
    return "DATA" if name == "data" else "--" + name.replace("_", "-")


def check_whole(name: str, value: int) -> None:
    """Check a whole number against LIMITS.

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
    """The value of every option in `defaults`: given (not None), else saved, else the default.

    The length, `steps` or `minutes`, is one choice: a given one replaces the other.
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


def check_same(where: object, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a resumed run is the one that was saved.

    Raises:
        TrainingError: names what differs and may not.
    """
    differing = [
        f"{option(name)} {saved.get(name)}, not {value}"
        for name, value in wanted.items()
        if name not in CHANGEABLE and saved.get(name) != value
    ]
    if differing:
        raise TrainingError(
            f"{where} was trained with {'; '.join(differing)}; "
            "resume with the same, or start in another folder"
        )
