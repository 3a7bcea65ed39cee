"""Answers: the probability of each option, and what follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from wkv.evaluate.decisions.question import Question, Value


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        question: the question.
        probabilities: those of its options, in the same order; their sum is 1.
        label_mass: the sum of the probabilities that the model gave to all labels. If it is below
            0.5, the model did not understand that it should answer with a label.
    """

    question: Question
    probabilities: tuple[float, ...]
    label_mass: float

    @property
    def probability(self) -> float:
        """The probability of "yes", or of the most probable option of other questions."""
        if self.question.kind == "predicate":
            return self.probabilities[0]
        return max(self.probabilities)

    @property
    def value(self) -> Value:
        """The most probable value; equal ones are decided by their order."""
        best = max(range(len(self.probabilities)), key=lambda n: (self.probabilities[n], -n))
        return self.question.options[best].value

    @property
    def score(self) -> float:
        """The mean of the values, weighted with their probabilities; for scores only."""
        levels = range(len(self.probabilities))
        return sum(level * p for level, p in zip(levels, self.probabilities, strict=True))

    @property
    def confidence(self) -> float:
        """The certainty of the answer, from 0 (all options are equal) to 1.

        Predicates and choices among n options: (n p - 1) / (n - 1) for the largest probability p.
        Scores: 1 - s / u, at least 0, where s is the standard deviation of the level and u that of
        levels with equal probabilities.
        """
        count = len(self.probabilities)
        if count == 1:
            return 1.0
        if self.question.kind != "score":
            return (count * max(self.probabilities) - 1) / (count - 1)
        spread = _deviation(self.probabilities)
        return max(0.0, 1 - spread / _deviation([1 / count] * count))


def _deviation(probabilities: Sequence[float]) -> float:
    """Return the standard deviation of the index."""
    mean = sum(index * p for index, p in enumerate(probabilities))
    squares = sum((index - mean) ** 2 * p for index, p in enumerate(probabilities))
    return float(squares**0.5)
