"""The report of `wkv quantize`: how the quantized model differs from the original.

Both the text for readers and the JSON object are made from the same values. All ranges are 95 %
confidence intervals.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from wkv.convert.quantize import Quantization
from wkv.evaluate.cost import Comparison
from wkv.evaluate.intervals import Estimate
from wkv.evaluate.questions import Answers

Pair = tuple[float, float]


@dataclass(frozen=True)
class Report:
    """The measurements of both models; a pair is that of the original and the quantized one.

    Attributes:
        strategies, engines: names.
        file_bytes: sizes of the files.
        tokens_per_second: speed of decoding.
        text: name of the text that both models read.
        is_calibration_text: whether int4 weights were rounded for this text.
        loss: the comparison on this text.
        exercises: answers to the built-in model's exercises; None for other models.
        questions: answers to the user's own questions; None without any.
    """

    strategies: tuple[str, str]
    engines: tuple[str, str]
    file_bytes: Pair
    tokens_per_second: Pair
    text: str
    is_calibration_text: bool
    loss: Comparison
    exercises: Answers | None
    questions: Answers | None

    @property
    def bits_per_byte_added(self) -> float:
        """The increase in bits per byte, or infinity if it cannot be measured."""
        bits = self.loss.bits_per_byte
        return float("inf") if bits is None else bits[1] - bits[0]

    def to_json(self, done: Quantization) -> dict[str, Any]:
        """Return the values of the JSON object; an interval is {value, low, high}."""
        values = asdict(self)
        return {
            **values.pop("loss"),
            **values,
            "path": str(done.path),
            "kept": done.kept,
            "calibration_tokens": done.calibration_tokens,
            "int8_matrices": list(done.int8_matrices),
        }

    def render(self, done: Quantization, max_kl: float | None) -> str:
        """Return a table and the sentences below it.

        Args:
            done: the file.
            max_kl: the limit of the KL divergence, in nats per token.
        """
        rows = [f"{name:<16}{a:>14}{b:>14}{c:>16}".rstrip() for name, a, b, c in self._rows()]
        return "\n".join([*rows, *self._sentences(max_kl), *_about(done)])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield "", *self.strategies, ""
        yield (
            "file, MB",
            *(f"{size / 1e6:,.1f}" for size in self.file_bytes),
            _times(self.file_bytes),
        )
        speeds = self.tokens_per_second
        yield "tokens/s", *(f"{speed:,.1f}" for speed in speeds), _times(speeds)
        if self.loss.bits_per_byte is not None:
            before, after = self.loss.bits_per_byte
            yield "bits per byte", f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"
        before, after = map(exp, self.loss.nats_per_token)
        yield "perplexity", f"{before:,.3f}", f"{after:,.3f}", f"{after / before - 1:+.2%}"
        for name, answers in (("exercises", self.exercises), ("questions", self.questions)):
            if answers is not None:
                change = f"{100 * answers.change.value:+.1f} points"
                yield f"{name} right", *(f"{share:.1%}" for share in answers.right), change

    def _sentences(self, max_kl: float | None) -> Iterator[str]:
        loss = self.loss
        yield (
            f"On {loss.tokens:,} tokens of {self.text}, compared with the original model "
            "(in brackets: 95 % confidence intervals):"
        )
        yield f"  KL divergence            {_nats(loss.kl)} nats per token"
        yield f"  greedy tokens unchanged  {_percent(loss.unchanged)}"
        yield (
            f"  logits                   differ by {loss.mean_difference:.3g} on average, by "
            f"{loss.largest_difference:.3g} at most"
        )
        for name, answers in (("exercises", self.exercises), ("questions", self.questions)):
            if answers is not None:
                yield (
                    f"Of {answers.asked:,} {name}, {answers.lost} answered correctly by the "
                    f"original are now wrong and {answers.gained} wrong ones are now right: "
                    f"{_points(answers.change)}."
                )
        if self.is_calibration_text:
            yield (
                "Int4 weights were rounded for this text, so the loss on others is larger; "
                "measure it with --text FILE."
            )
        if max_kl is not None and loss.kl.value > max_kl:
            yield (
                f"This KL divergence is more than the {max_kl:g} of --max-kl, which holds for the "
                "part of the text behind this one; give a smaller limit if it must hold here too."
            )
        if set(self.engines) != {"native"}:
            yield f"The speed is that of the {self.engines[1]} engine; see wkv doctor."


def _about(done: Quantization) -> Iterator[str]:
    """Yield what is worth knowing about the file."""
    if done.calibration_tokens:
        yield (
            f"Int4 weights were calibrated on {done.calibration_tokens:,} tokens: rounded so that "
            "the model's outputs change least on them."
        )
    if done.int8_matrices:
        names = ", ".join(done.int8_matrices)
        yield f"These matrices are int8, all other large ones int4: {names}."
    if done.kept:
        yield f"{done.path}: verified to be exact, and saved"


def _nats(kl: Estimate) -> str:
    """Format a divergence, which cannot be negative."""
    return f"{kl.value:.3g} ({max(0.0, kl.low):.3g} to {kl.high:.3g})"


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f} %)"


def _points(change: Estimate) -> str:
    low, high = 100 * change.low, 100 * change.high
    return f"{100 * change.value:+.1f} percentage points ({low:+.1f} to {high:+.1f})"


def _times(pair: Pair) -> str:
    return f"{pair[1] / pair[0]:.2f} x"
