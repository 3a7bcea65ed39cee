"""Compare two files of any format: are they the same model?

Tensors are compared with official names, then logits and greedy tokens of a text in float32, then
tokenizers. Files round their weights differently, so each comparison has a limit that depends on
the less precise of the two formats. `wkv convert` proves more about its own files: that nothing but
rounding to a dtype has changed (`wkv.convert.verify`).
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wkv.convert.verify import TEXT
from wkv.errors import TokenizerError
from wkv.inference.describe import Description, describe
from wkv.inference.load import build_model, strategy_for
from wkv.models.int8 import PARTS, dequantize
from wkv.tokenizers import Tokenizer

MAX_TOKENS = 512
"""Number of tokens of the text whose logits are compared."""

MAX_LISTED = 5
"""Number of differences of a kind that are listed."""


@dataclass(frozen=True)
class Precision:
    """The largest differences of the same model in a number format.

    Attributes:
        name: the format, as shown to users.
        tensors: largest root mean square of the difference of a tensor, divided by that of the
            tensor.
        divergence: largest Kullback-Leibler divergence of the predictions, in nats per token.
    """

    name: str
    tensors: float
    divergence: float


EXACT = Precision("the same numbers", 1e-4, 1e-6)
HALF = Precision("fp16", 1e-3, 1e-3)
BRAIN = Precision("bf16", 4e-3, 1e-2)

QUANTIZED = {
    8: Precision("8 bits", 0.02, 0.03),
    6: Precision("6 bits", 0.04, 0.06),
    5: Precision("5 bits", 0.08, 0.15),
    4: Precision("4 bits", 0.15, 0.5),
    3: Precision("3 bits", 0.35, 1.5),
    2: Precision("2 bits", 0.7, 5.0),
    1: Precision("1 bit", 1.0, 10.0),
}
"""Limits of quantized files, by bits per weight. Usual errors are half of them or less."""


@dataclass(frozen=True)
class TensorDifference:
    """The difference of a tensor in two files.

    Attributes:
        name: official name.
        relative: root mean square of the difference, divided by that of the tensor; infinite for
            other shapes.
        largest: largest difference of a value.
    """

    name: str
    relative: float
    largest: float


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        precision: the limits that were used.
        problems: why the files are not the same model, one sentence each; empty if they are.
        n_tensors: number of tensors that were compared.
        worst: the tensor with the largest relative difference; None if none was compared.
        n_tokens: number of tokens whose predictions were compared; 0 if they were not.
        logits: largest difference of a logit.
        divergence: Kullback-Leibler divergence of the predictions, in nats per token.
        n_greedy: number of tokens after which both models predict the same token.
        tokenizers: "equal", "different", or why they were not compared.
    """

    precision: Precision
    problems: tuple[str, ...]
    n_tensors: int
    worst: TensorDifference | None
    n_tokens: int
    logits: float
    divergence: float
    n_greedy: int
    tokenizers: str

    @property
    def is_same(self) -> bool:
        """Whether the files are the same model."""
        return not self.problems


def compare(
    one: str | Path,
    other: str | Path,
    *,
    text: str = TEXT,
    logits: bool = True,
    on_tensor: Callable[[int, int], None] = lambda *_: None,
) -> Comparison:
    """Compare two checkpoints of any format.

    Args:
        one: a file, directory or name.
        other: another one.
        text: the text whose predictions are compared.
        logits: whether to compare predictions. This loads both models in float32, one after the
            other.
        on_tensor: called with the number of tensors compared and their total.

    Raises:
        CheckpointError: if one of them cannot be read.
    """
    first, second = describe(one), describe(other)
    precision = coarser(first, second)
    problems = list(_size_problems(first, second))
    if problems:
        return Comparison(precision, tuple(problems), 0, None, 0, 0.0, 0.0, 0, "not compared")
    differences = list(_tensor_differences(first, second, on_tensor))
    wrong = [one for one in differences if not one.relative <= precision.tensors]
    if wrong:
        listed = ", ".join(f"{one.name} by {one.relative:.2g}" for one in wrong[:MAX_LISTED])
        problems.append(
            f"{len(wrong)} of {len(differences)} tensors differ by more than {precision.tensors:g} "
            f"(relative to their size): {listed}"
        )
    worst = max(differences, key=lambda one: one.relative)
    ids, tokenizers = _tokens(first, second, text)
    if tokenizers == "different":
        problems.append("the tokenizers differ, so the models read texts differently")
    predictions = _Predictions(0, 0.0, 0.0, 0)
    if logits:
        predictions = _compare_predictions(first, second, ids)
        if not predictions.divergence <= precision.divergence:
            problems.append(
                f"the predictions differ by {predictions.divergence:.2g} nats per token, more than "
                f"{precision.divergence:g}"
            )
    return Comparison(
        precision,
        tuple(problems),
        len(differences),
        worst,
        predictions.n_tokens,
        predictions.logits,
        predictions.divergence,
        predictions.n_greedy,
        tokenizers,
    )


def coarser(first: Description, second: Description) -> Precision:
    """Return the limits for two files: those of the less precise number format.

    Two files with the same floating-point dtype must contain the same numbers.
    """
    bits = [n for n in (_bits(first), _bits(second)) if n is not None]
    if bits:
        return QUANTIZED[min(bits)]
    dtypes = first.dtypes | second.dtypes
    if first.dtypes == second.dtypes or dtypes <= {torch.float32, torch.float64}:
        return EXACT
    return BRAIN if torch.bfloat16 in dtypes else HALF


def _bits(description: Description) -> int | None:
    """Return the bits per weight of a quantized file; None if its matrices are floats."""
    checkpoint = description.checkpoint
    if description.scales:
        return 8
    if checkpoint.is_packed and checkpoint.strategy is not None:
        return int(checkpoint.strategy[-1])
    found = (re.match(r"I?Q(\d)", name) for name in checkpoint.stored_types)
    return min((int(one[1]) for one in found if one), default=None)


def _size_problems(first: Description, second: Description) -> Iterable[str]:
    """Yield why the tensors of two files cannot be compared."""
    if first.config.generation != second.config.generation:
        yield f"RWKV-{first.config.generation} and RWKV-{second.config.generation}"
        return
    for name in ("n_layer", "n_embd", "dim_att", "dim_ffn", "n_head", "vocab_size"):
        sizes = [getattr(one.config, name, None) for one in (first, second)]
        if sizes[0] != sizes[1]:
            yield f"{name} is {sizes[0]} and {sizes[1]}"


def _tensor_differences(
    first: Description, second: Description, on_tensor: Callable[[int, int], None]
) -> Iterable[TensorDifference]:
    """Yield the difference of each tensor of the network."""
    names = [name for name in first.shapes if name in second.shapes]
    for number, name in enumerate(names):
        on_tensor(number, len(names))
        a, b = _values(first, name), _values(second, name)
        if a.shape != b.shape:
            yield TensorDifference(name, math.inf, math.inf)
            continue
        difference = (a - b).nan_to_num(nan=math.inf)
        size = max(_rms(a), _rms(b))
        relative = _rms(difference) / size if size else _rms(difference)
        yield TensorDifference(name, relative, float(difference.abs().max()))
    for name in sorted(set(first.shapes) ^ set(second.shapes)):
        yield TensorDifference(name, math.inf, math.inf)


def _values(description: Description, name: str) -> Tensor:
    """Return a tensor in float32; ChatRWKV's int8 matrices are converted back."""
    checkpoint = description.checkpoint
    tensor = checkpoint[name].reshape(description.shapes[name])
    if tensor.dtype != torch.int8:
        return tensor.float()
    scales = {f"weight_{part}": checkpoint[f"{name}_{part}"] for part in PARTS}
    return dequantize({"weight": tensor, **scales})


def _rms(values: Tensor) -> float:
    """Return the root mean square."""
    return math.sqrt(float(values.double().square().mean()))


def _tokens(first: Description, second: Description, text: str) -> tuple[list[int], str]:
    """Return the token ids of a text, and whether the tokenizers of two models are equal."""
    tokenizers: list[Tokenizer] = []
    for description in (first, second):
        try:
            tokenizers.append(description.tokenizer())
        except TokenizerError:
            size = description.config.vocab_size
            return [byte % size for byte in text.encode()][:MAX_TOKENS], (
                f"not compared: no tokenizer is known for {size} ids"
            )
    ids = tokenizers[0].encode(text)
    tables = [getattr(tokenizer, "entries", None) for tokenizer in tokenizers]
    same = ids == tokenizers[1].encode(text) and (None in tables or tables[0] == tables[1])
    return ids[:MAX_TOKENS], "equal" if same else "different"


@dataclass(frozen=True)
class _Predictions:
    """The differences of two models' predictions; see `Comparison`."""

    n_tokens: int
    logits: float
    divergence: float
    n_greedy: int


def _compare_predictions(
    first: Description, second: Description, ids: Sequence[int]
) -> _Predictions:
    """Compare the predictions after each token, with only one model in memory at a time."""
    expected, found = (_logits(description, ids) for description in (first, second))
    a, b = expected.double().log_softmax(-1), found.double().log_softmax(-1)
    divergence = float((a.exp() * (a - b)).sum(-1).mean())
    same = int((expected.argmax(-1) == found.argmax(-1)).sum())
    return _Predictions(len(ids), float((expected - found).abs().max()), max(0.0, divergence), same)


def _logits(description: Description, ids: Sequence[int]) -> Tensor:
    """Return the logits (T, V) of ids in float32."""
    text = "cpu fp32i8" if description.scales else "cpu fp32"
    model = build_model(description, strategy_for(description, text))
    return model.forward(list(ids), all_logits=True)[0]
