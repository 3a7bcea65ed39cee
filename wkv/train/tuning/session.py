"""The parts of a fine-tuning run in one process: model, data, settings and task.

Every process of a run creates the same session from the same job.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from wkv.errors import TrainingError
from wkv.inference.describe import Description, describe
from wkv.inference.load import build_model, strategy_for
from wkv.inference.model import Model
from wkv.inference.prefill import has_leading_zero
from wkv.models.parts import Skeleton
from wkv.prompting.presets import ends_at_blank_line, preset_for
from wkv.prompting.template import template_for
from wkv.train.data import END_OF_TEXT, Mixture, RowSource, batch
from wkv.train.examples.dataset import DataOptions, Dataset, read_dataset
from wkv.train.examples.encode import Document, Encoder
from wkv.train.examples.render import Style
from wkv.train.optimizer import Optimizer, OptimizerSettings, ProcessGroup
from wkv.train.recurrence import HEAD_SIZES, recurrence
from wkv.train.run_folder import RunFolder
from wkv.train.schedule import Schedule
from wkv.train.settings import TrainingSettings
from wkv.train.tuning.measure import measure
from wkv.train.tuning.memory import MemoryPlan, plan_memory
from wkv.train.tuning.methods import TunedModel, plain_products, prepare
from wkv.train.tuning.options import (
    PACKED,
    STATE_RATES,
    TuningOptions,
    default_rate,
    default_rows,
    default_steps,
)
from wkv.train.tuning.proof import Examination, examination
from wkv.train.tuning.result import earlier_tensors
from wkv.train.tuning.task import TuningTask

LAST_SHARE = 0.1
"""The share of its peak to which the learning rate decreases."""

TRIED_STEPS = 20
"""Number of steps for which each learning rate of a state is tried."""

MAX_EVALUATED = 64
"""Number of held-out documents that are measured during training."""

WEIGHT_DECAY = 0.1
"""Default weight decay of the matrices in full tuning."""

LOG_LINES, EVALUATIONS = 20, 8
"""Default number of lines of the log, and of measurements during training."""


@dataclass(frozen=True)
class TuningJob:
    """The description of a fine-tuning run, from which each process creates its session.

    Attributes:
        base: the model, as `wkv.load` accepts it.
        data: the data set.
        folder: the folder of the run.
        options: the options.
        resume: whether to continue from the folder's checkpoint.
        processes, threads: number of processes, and of threads in each.
    """

    base: str | Path | None
    data: Path
    folder: RunFolder
    options: TuningOptions
    resume: bool = False
    processes: int = 1
    threads: int = 1


class Session:
    """A fine-tuning run in one process.

    Attributes:
        description, model: the base model, before and after loading.
        strategy: the dtype of the frozen weights as a strategy, such as "cpu bf16".
        data, mixed: the data set, and the one that is mixed into it.
        settings: the settings of the loop, with all defaults.
        tuned: the trained tensors.
        task: the task of the loop.
        memory: how rows are computed.
        examination: the documents that are measured before and after.
        tried: held-out loss after trying each learning rate, if it was chosen by it.
    """

    def __init__(self, job: TuningJob, group: ProcessGroup, notify: Callable[[str], None]) -> None:
        self.job, self.options, self.group = job, job.options, group
        options = job.options
        self.description: Description = describe(job.base)
        self.strategy, self.uses_autocast = _strategy(self.description, options)
        self.model: Model = build_model(
            self.description,
            strategy_for(self.description, self.strategy),
            engine="torch",
            threads=job.threads,
        )
        self.network: Skeleton = _trainable_network(self.model, job.threads, notify)
        self._read_data()
        rows = options.rows or default_rows(
            options.method, self.data.mean_tokens, options.tokens_per_step
        )
        rows = math.ceil(rows / job.processes) * job.processes
        self.examination: Examination = examination(
            self.model.tokenizer,
            self.data.held_out,
            self.mixed.held_out if self.mixed else (),
            begins=self.encoder.begins,
            with_turns=options.method == "state",
        )
        earlier = earlier_tensors(self.description, self.model, options)
        self.tuned: TunedModel = prepare(self.model, options, earlier)
        longest = min(self.longest, options.carry or self.longest)
        self.memory: MemoryPlan = plan_memory(
            self.model.config, rows // job.processes, longest, self.model.device,
            options.checkpoint_blocks,
        )  # fmt: skip
        if self.memory.checkpoint_blocks:
            compute_blocks_again(self.network)
        self.settings = self._settings(rows)
        self.task = self._task()
        self.tried: dict[float, float] = {}

    def _read_data(self) -> None:
        """Read the data set and the mixed one."""
        options, model = self.options, self.model
        begins = has_leading_zero(model) if options.first_id == "auto" else options.first_id == "0"
        ends = not ends_at_blank_line(model, preset_for(model))
        self.encoder = Encoder(model.tokenizer, begins, ends)
        how = DataOptions(
            self.encoder,
            Style(template_for(model), options.prompt_weight, options.skips_thinking),
            options.context if options.carry is None else max(options.context, 2**20),
            options.format,
            options.held_out_part,
            options.system,
            options.seed,
        )
        self.data: Dataset = read_dataset(self.job.data, how)
        self.mixed: Dataset | None = None
        self.share = 0.0
        if options.mixed is not None:
            path, self.share = options.mixed
            hold_out = 0.05 if isinstance(how.hold_out, Path) else how.hold_out
            self.mixed = read_dataset(path, replace(how, format="auto", hold_out=hold_out))

    @property
    def longest(self) -> int:
        """The largest number of tokens of a row."""
        if self.options.turns > 1:
            return self.options.context
        sets = [self.data, *([self.mixed] if self.mixed else [])]
        return max(
            one.context if one.prose is not None else max(len(doc.ids) for doc in one.training)
            for one in sets
        )

    def _settings(self, rows: int) -> TrainingSettings:
        """Return the settings of the loop, with the defaults of the method."""
        options = self.options
        decay = options.weight_decay
        if decay is None:
            decay = WEIGHT_DECAY if options.method == "full" else 0.0
        steps = options.steps
        if steps is None and options.minutes is None:
            share = 1 - self.share
            steps = default_steps(
                options.method, options.epochs, math.ceil(self.data.n_rows / share), rows
            )
        rate = options.learning_rate
        if rate is None and options.method != "state":
            rate = default_rate(options.method, self.model.config.n_embd)
        return TrainingSettings(
            steps=steps,
            minutes=options.minutes,
            context=options.context,
            rows=rows,
            learning_rate=rate or max(STATE_RATES),
            warmup=options.warmup,
            processes=self.job.processes,
            threads=self.job.threads,
            log_steps=max(1, (steps or 10 * LOG_LINES) // LOG_LINES),
            save_seconds=options.save_seconds,
            seed=options.seed,
            compile=False,
            optimizer=OptimizerSettings(weight_decay=decay, clip=options.clip),
        )

    def _task(self) -> TuningTask:
        """Return the task of the loop."""
        options, rows = self.options, self.settings.rows
        source: RowSource = self.data.rows(options.seed, rows, "training", options.turns)
        if self.mixed is not None:
            other = self.mixed.rows(options.seed, rows, "mixed", options.turns)
            source = Mixture(source, other, 1 - self.share)
        task = TuningTask(
            self.tuned,
            source,
            Schedule(options.schedule, LAST_SHARE),
            asdict(self.model.config),
            carry=options.carry,
            micro_rows=self.memory.micro_rows,
            uses_autocast=self.uses_autocast,
        )
        task.measure = partial(self.held_out_loss, self.few_held_out())
        usual = max(1, (self.settings.steps or 10 * EVALUATIONS) // EVALUATIONS)
        every = options.eval_every or usual
        task.eval_every = max(1, round(every / self.settings.log_steps)) * self.settings.log_steps
        return task

    def few_held_out(self) -> Sequence[Document]:
        """Return the held-out documents that are measured during training."""
        documents = self.data.held_out
        return documents[:: math.ceil(len(documents) / MAX_EVALUATED)]

    def held_out_loss(self, documents: Sequence[Document]) -> float:
        """Return the loss of documents with the present tensors."""
        with self.task.autocast():
            return measure(self.network, self.tuned.layers, documents).loss

    @property
    def needs_rate(self) -> bool:
        """Whether the learning rate is chosen by trying."""
        return self.options.method == "state" and self.options.learning_rate is None

    def source(self) -> dict[str, Any]:
        """Return what a resumed run must share, besides the settings of the loop."""
        record = self.options.record()
        record |= {"data": self.data.fingerprint, "base": self.model.identity}
        if self.mixed is not None:
            record["mixed_data"] = self.mixed.fingerprint
        return record

    def notes(self) -> dict[str, str]:
        """Return how the result is used."""
        template = template_for(self.model)
        return {
            "begins_with": str(END_OF_TEXT) if self.encoder.begins else "",
            "ends_with": str(END_OF_TEXT) if self.encoder.ends else "",
            "template": f"{template.name_of('user')} {template.name_of('assistant')}",
        }

    def try_rates(self, notify: Callable[[str], None]) -> None:
        """Choose the learning rate of a state: the one with the best held-out loss after a while.

        Each is tried for TRIED_STEPS steps from the present tensors.
        """
        begin = [one.parameter.detach().clone() for one in self.tuned.trained]
        documents = self.few_held_out()
        steps = min(TRIED_STEPS, self.settings.steps or TRIED_STEPS)
        for rate in STATE_RATES:
            self._try_rate(rate, steps)
            loss = self.held_out_loss(documents)
            self.tried[rate] = loss if math.isfinite(loss) else math.inf
            notify(f"trying rate {rate:g}: held-out {loss:.3f} after {steps} steps")
            with torch.no_grad():
                for one, value in zip(self.tuned.trained, begin, strict=True):
                    one.parameter.copy_(value)
        best = min(self.tried, key=lambda rate: (self.tried[rate], rate))
        self.settings = replace(self.settings, learning_rate=best)

    def _try_rate(self, rate: float, steps: int) -> None:
        """Train for some steps; every process does the same on all rows."""
        optimizer = Optimizer(self.tuned.trained, self.settings.optimizer, ProcessGroup())
        for step in range(steps):
            rows = batch(self.task.rows, step * self.settings.rows, self.settings.rows)
            self.clear_gradients()
            self.task.backward(rows, rows.weights.sum())
            warm = min(1.0, (step + 1) / min(self.settings.warmup, steps))
            if not math.isfinite(optimizer.step(rate * warm)):
                break
        self.clear_gradients(None)

    def clear_gradients(self, value: float | None = 0.0) -> None:
        """Set all gradients to zero, or remove them."""
        for one in self.tuned.trained:
            parameter = one.parameter
            parameter.grad = None if value is None else torch.zeros_like(parameter)

    def seconds_per_token(self, tries: int = 2) -> float:
        """Measure the time of training on the first rows, without changing anything."""
        seconds, tokens = 0.0, 0
        for number in range(tries + 1):
            rows = batch(self.task.rows, number * self.settings.rows, self.memory.micro_rows)
            self.clear_gradients()
            begun = time.perf_counter()
            self.task.backward(rows, rows.weights.sum())
            if number:  # the first one allocates memory
                seconds += time.perf_counter() - begun
                tokens += rows.n_tokens
        self.clear_gradients(None)
        return seconds / max(tokens, 1)


def _strategy(description: Description, options: TuningOptions) -> tuple[str, bool]:
    """Return the strategy of the frozen weights, and whether products are computed in bf16.

    A trained network has float32 weights, whose products are computed in bf16 where that is fast.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    dtype = options.base_dtype
    if dtype in PACKED:
        if options.method == "full":
            raise TrainingError(
                f"--base-dtype {dtype} is for frozen weights, and --method full trains all; use "
                "--method lora"
            )
        return f"{device} {'bf16' if fast else 'fp32'}", False
    if dtype == "auto":
        is_16_bit = description.finest_dtype.itemsize == 2
        dtype = "bf16" if fast and (is_16_bit or options.method == "full") else "fp32"
    if options.method == "full":
        return f"{device} fp32", dtype == "bf16"
    return f"{device} {dtype}", False


def _trainable_network(model: Model, threads: int, notify: Callable[[str], None]) -> Skeleton:
    """Return the network of a model with differentiable products and the fastest recurrence."""
    network = model.network
    assert isinstance(network, Skeleton)
    plain_products(network)
    config = model.config
    if config.generation.startswith("7") and model.device.type == "cpu":
        wkv, notice = recurrence(threads)
        if notice:
            notify(notice)
        if notice is None and config.head_size in HEAD_SIZES:
            for block in network.blocks:
                block.get_submodule("att").wkv = wkv  # type: ignore[assignment]
    return network


def compute_blocks_again(network: nn.Module) -> None:
    """Let each block keep only its inputs, and be computed again in the backward pass."""
    for block in network.get_submodule("blocks").children():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
