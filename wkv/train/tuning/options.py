"""The options of a fine-tuning run, and the defaults that follow from method, model and data."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wkv.errors import TrainingError
from wkv.train.schedule import SHAPES

METHODS = ("lora", "state", "full", "miss", "dora")

PACKED = ("int8", "int4")
"""Dtypes of frozen matrices that are unpacked for each product."""

BASE_DTYPES = ("auto", "fp32", "bf16", "fp16", *PACKED)

STATE_RATES = (1e-3, 1e-2, 0.1, 1.0)
"""Learning rates that are tried for a state."""

RATE_TIMES_WIDTH = 0.6
"""Learning rate of LoRA times the width of the model; measured at width 192, and
extrapolated to larger ones."""

FULL_RATE = 0.1
"""Learning rate of full tuning, as a share of LoRA's."""

MEASURED_WIDTH = 192
"""The largest width at which learning rates were measured."""

LENGTHS = {"state": (3, 200), "full": (1, 50)}
"""Default number of epochs, and the least number of steps, of methods other than LoRA."""

LORA_LENGTH = (2, 100)

TOKENS = {"state": 2048, "full": 8192}
"""Default number of tokens in a step; 4096 for adapters."""

MOST_ROWS = 16
"""Default limit of the number of rows in a step."""


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """The options of a run. None means that the value follows from method, model and data.

    Attributes:
        method: "lora", "state", "full", "miss" or "dora".
        rank, alpha: rank of an adapter, and its scale alpha / rank.
        targets: "all", or names of matrices such as "att.key,ffn.value".
        freeze_layers: number of first layers that an adapter or full tuning does not change; full
            tuning then keeps the embedding, too.
        base_dtype: dtype of the frozen weights; "auto" is bf16 where that is fast, else fp32.
        learning_rate: peak of the learning rate.
        steps, epochs, minutes: the length of the run; at most one is given.
        warmup: steps in which the learning rate increases.
        schedule: "cosine" or "linear" (both to a tenth) or "constant".
        clip, weight_decay: of the optimizer.
        context: largest number of tokens of a row.
        rows: rows per step.
        tokens_per_step: chooses `rows` by the mean length of the data.
        carry: tokens after which the gradient of a long row is cut; the state goes on.
        checkpoint_blocks: whether blocks are computed again in the backward pass, which saves
            memory; None: if a row needs it.
        turns: largest number of conversations that are joined to a row.
        format: the format of the data.
        mask: "answers", "all", or the weight of everything that is not an answer.
        hold_out: share of held-out documents such as "5%", or a file.
        system: a system message for conversations without one.
        first_id: "auto", "0" (documents begin with id 0) or "none".
        skips_thinking: whether answers begin with empty thoughts.
        mix: other data and its share of the rows, FILE:SHARE.
        from_path: an adapter or state of an earlier run with which training begins.
        eval_every: steps between two measurements of held-out documents.
        samples: number of answers that are written before and after.
        keep: "best" or "last".
        save_seconds: seconds between two checkpoints.
        seed: seed of adapters, order and held-out documents.
    """

    method: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    targets: str = "all"
    freeze_layers: int = 0
    base_dtype: str = "auto"
    learning_rate: float | None = None
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    warmup: int = 10
    schedule: str = "cosine"
    clip: float = 1.0
    weight_decay: float | None = None
    context: int = 1024
    rows: int | None = None
    tokens_per_step: int | None = None
    carry: int | None = None
    checkpoint_blocks: bool | None = None
    turns: int = 1
    format: str = "auto"
    mask: str = "answers"
    hold_out: str = "5%"
    system: str = ""
    first_id: str = "auto"
    skips_thinking: bool = False
    mix: str | None = None
    from_path: str | None = None
    eval_every: int | None = None
    samples: int = 4
    keep: str = "best"
    save_seconds: float = 180.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
            TrainingError: if one is wrong; the message names the option.
        """
        self._check_choice("method", METHODS)
        self._check_choice("base_dtype", BASE_DTYPES)
        self._check_choice("schedule", SHAPES)
        self._check_choice("keep", ("best", "last"))
        self._check_choice("first_id", ("auto", "0", "none"))
        for name in ("rank", "warmup", "context", "turns", "steps", "rows", "carry", "eval_every"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise _wrong(name, value, "a whole number from 1")
        for name in ("learning_rate", "epochs", "minutes", "clip", "alpha", "save_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise _wrong(name, value, "a number above 0")
        if type(self.freeze_layers) is not int or self.freeze_layers < 0:
            raise _wrong("freeze_layers", self.freeze_layers, "a whole number from 0")
        if self.freeze_layers and self.method == "state":
            raise TrainingError("--freeze-layers is for adapters and --method full; leave it out")
        lengths = [name for name in ("steps", "epochs", "minutes") if getattr(self, name)]
        if len(lengths) > 1:
            raise TrainingError(f"--{lengths[0]} and --{lengths[1]} exclude each other; give one")
        if self.rows is not None and self.tokens_per_step is not None:
            raise TrainingError("--rows and --tokens-per-step exclude each other; give one")
        self.prompt_weight, self.held_out_part, self.mixed  # noqa: B018 - they check the texts

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise _wrong(name, getattr(self, name), f"one of {', '.join(choices)}")

    @property
    def prompt_weight(self) -> float:
        """The weight in the loss of everything that is not an answer."""
        if self.mask in ("answers", "all"):
            return float(self.mask == "all")
        return _share("mask", self.mask, "answers, all, or a weight from 0 to 1")

    @property
    def held_out_part(self) -> float | Path:
        """The share of held-out documents, or the file that contains them."""
        text = self.hold_out.strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            return Path(self.hold_out).expanduser()
        if not 0 < share < 1:
            raise _wrong("hold_out", self.hold_out, "a share such as 5%, or a file")
        return share

    @property
    def mixed(self) -> tuple[Path, float] | None:
        """The file of other data and its share of the rows."""
        if self.mix is None:
            return None
        path, _, share = self.mix.rpartition(":")
        value = _share("mix", share, "FILE:SHARE with a share from 0 to 1, such as chat.jsonl:0.3")
        if not path or not 0 < value < 1:
            raise _wrong("mix", self.mix, "FILE:SHARE with a share from 0 to 1")
        return Path(path).expanduser(), value

    def record(self) -> dict[str, Any]:
        """Return the fields that determine the result, as a checkpoint stores them."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_RECORDED}


NOT_RECORDED = (
    "learning_rate", "steps", "epochs", "minutes", "warmup", "clip", "weight_decay", "context",
    "rows", "tokens_per_step", "save_seconds", "seed",
)  # fmt: skip
"""Fields that `TrainingSettings` contains when they are resolved, or that do not matter."""

OPTION_NAMES = tuple(field.name for field in fields(TuningOptions))


def default_rate(method: str, width: int) -> float:
    """Return the default learning rate of a method other than state tuning."""
    rate = RATE_TIMES_WIDTH / width
    return rate * FULL_RATE if method == "full" else rate


def default_steps(method: str, epochs: float | None, rows_of_epoch: int, rows: int) -> int:
    """Return the number of steps for a number of epochs, or the default number."""
    usual, least = LENGTHS.get(method, LORA_LENGTH)
    if epochs is not None:
        return max(1, math.ceil(epochs * rows_of_epoch / rows))
    return max(least, math.ceil(usual * rows_of_epoch / rows))


def default_rows(method: str, mean_tokens: float, tokens: int | None) -> int:
    """Return the number of rows of a step."""
    if tokens is not None:
        return max(1, round(tokens / mean_tokens))
    return max(1, min(MOST_ROWS, round(TOKENS.get(method, 4096) / mean_tokens)))


def _share(name: str, text: str, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise _wrong(name, text, expected)
    return value


def _wrong(name: str, value: object, expected: str) -> TrainingError:
    option = "--from" if name == "from_path" else "--" + name.replace("_", "-")
    return TrainingError(f"{option} is {value}; give {expected}")
