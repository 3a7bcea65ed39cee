"""The basics of exercises: the split into training and evaluation, words, numbers and templates.

An exercise has one right answer. The kinds of exercises are in `numbers.py` and `words.py`.

One item in twenty, selected by a checksum of its kind and content, is held out: it is never used in
training, and the evaluation uses only such items. Kinds that are memorized (capitals, opposites,
days, the times table) have no held-out items.
"""

import re
import string
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, TypeVar

from recipes.demo_model.facts import NAMES, SYLLABLES

Key = TypeVar("Key", bound=tuple[object, ...])

HELD_OUT_OF = 20
RANDOM_WORDS, VOCABULARY_WORDS = 0.25, 0.35
"""Shares of the training words that are random letters, or single tokens of the vocabulary."""


class Exercise(NamedTuple):
    """A question and its answer, whose first `given` characters repeat the question."""

    question: str
    answer: str
    given: int = 0


def is_held_out(kind: str, *key: Any) -> bool:
    """Check whether an item is held out. The order of two summands does not matter."""
    parts = sorted(key) if kind == "add" else key
    return zlib.crc32("|".join([kind, *map(str, parts)]).encode()) % HELD_OUT_OF == 0


@dataclass
class Source:
    """The source of the words, numbers and names in exercises.

    Attributes:
        words: lower-case words of 3 to 10 letters; the evaluation samples its words from these.
        token_words: those words that are single tokens of the vocabulary. The model does not see
            their letters, so training samples them more often.
        held_out: whether to create held-out items for the evaluation, or items for training.
    """

    words: Sequence[str]
    token_words: Sequence[str] = ()
    held_out: bool = False
    _of_kind: dict[tuple[str, bool], list[str]] = field(default_factory=dict, repr=False)

    def pick(self, random: Random, kind: str, sample: Callable[[], Key]) -> Key:
        """Sample items until one belongs to this side of the split."""
        while True:
            key = sample()
            if is_held_out(kind, *key) == self.held_out:
                return key

    def word(self, random: Random, kind: str) -> str:
        """Sample a word; training also uses random letters."""
        if self.held_out:
            return random.choice(self._split(kind, False))
        x = random.random()
        if x < RANDOM_WORDS:
            return self.pick(random, kind, lambda: (letters(random),))[0]
        return random.choice(self._split(kind, x < RANDOM_WORDS + VOCABULARY_WORDS))

    def _split(self, kind: str, tokens: bool) -> list[str]:
        """Return the words of this side of the split, which are cached for each kind."""
        words = self.token_words if tokens and self.token_words else self.words
        if (kind, tokens) not in self._of_kind:
            self._of_kind[kind, tokens] = [
                w for w in words if is_held_out(kind, w) == self.held_out
            ]
        return self._of_kind[kind, tokens]

    def name(self, random: Random) -> str:
        """Sample a first name: 40 % are real in training, none are real in the evaluation."""

        def sample() -> tuple[str]:
            if not self.held_out and random.random() < 0.4:
                return (random.choice(NAMES),)
            return ("".join(random.choices(SYLLABLES, k=random.randint(2, 3))).capitalize(),)

        return self.pick(random, "name", sample)[0]

    def digits(self, random: Random, kind: str, longest: int) -> str:
        """Sample a string of 3 to `longest` digits."""
        return self.pick(
            random,
            kind,
            lambda: ("".join(random.choices(string.digits, k=random.randint(3, longest))),),
        )[0]


def words_of(texts: Iterable[str]) -> list[str]:
    """Return all separate words of 3 to 10 lower-case letters in the texts, sorted."""
    found: set[str] = set()
    for text in texts:
        found.update(re.findall(r"(?<![A-Za-z'-])[a-z]{3,10}(?![A-Za-z'-])", text))
    return sorted(found)


def letters(random: Random) -> str:
    """Sample 3 to 10 random letters."""
    return "".join(random.choices(string.ascii_lowercase, k=random.randint(3, 10)))


def number(random: Random, digits: int) -> int:
    """Sample a number with a given number of digits; 0 has one digit."""
    return (
        random.randint(0, 9) if digits == 1 else random.randint(10 ** (digits - 1), 10**digits - 1)
    )


def quoted(random: Random, text: str) -> str:
    """Put a text in quotes, with probability 0.55. Quoted words are encoded as bytes."""
    return f'"{text}"' if random.random() < 0.55 else text


def ask(random: Random, templates: Sequence[str], **values: object) -> str:
    """Fill in a random template."""
    return random.choice(templates).format(**values)
