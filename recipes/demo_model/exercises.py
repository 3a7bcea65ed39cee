"""What exercises are made of: the split into training and evaluation, words, numbers, phrasings.

An exercise has one right answer; the kinds are in `numbers.py` and `words.py`.

Every twentieth item, chosen by a checksum of its kind and its content, is held out: training
never sees it, the evaluation sees nothing else. Kinds that are learned by heart (capitals,
opposites, days, the times table) have no held-out items.
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
"""Shares of the training words that are random letters, or words of which the model has a token."""


class Exercise(NamedTuple):
    """A question and its answer, of which the first `given` characters repeat the question."""

    question: str
    answer: str
    given: int = 0


def is_held_out(kind: str, *key: Any) -> bool:
    """Whether an item belongs to the evaluation. The order of two summands does not matter."""
    parts = sorted(key) if kind == "add" else key
    return zlib.crc32("|".join([kind, *map(str, parts)]).encode()) % HELD_OUT_OF == 0


@dataclass
class Source:
    """Where exercises take their words, numbers and names from.

    Attributes:
        words: lower-case words of 3 to 10 letters; the evaluation draws its words from these.
        token_words: those of them that are one token of the vocabulary. The model never sees
            their letters, so training draws on them more often.
        held_out: whether to make items of the evaluation or of the training.
    """

    words: Sequence[str]
    token_words: Sequence[str] = ()
    held_out: bool = False
    _of_kind: dict[tuple[str, bool], list[str]] = field(default_factory=dict, repr=False)

    def pick(self, random: Random, kind: str, draw: Callable[[], Key]) -> Key:
        """Draw until an item is of the right side of the split."""
        while True:
            key = draw()
            if is_held_out(kind, *key) == self.held_out:
                return key

    def word(self, random: Random, kind: str) -> str:
        """A word; in training also random letters."""
        if self.held_out:
            return random.choice(self._split(kind, False))
        chance = random.random()
        if chance < RANDOM_WORDS:
            return self.pick(random, kind, lambda: (letters(random),))[0]
        return random.choice(self._split(kind, chance < RANDOM_WORDS + VOCABULARY_WORDS))

    def _split(self, kind: str, tokens: bool) -> list[str]:
        """The words of this side of the split, found once for each kind."""
        words = self.token_words if tokens and self.token_words else self.words
        if (kind, tokens) not in self._of_kind:
            self._of_kind[kind, tokens] = [
                w for w in words if is_held_out(kind, w) == self.held_out
            ]
        return self._of_kind[kind, tokens]

    def name(self, random: Random) -> str:
        """A first name: in training half of them real, in the evaluation all invented."""

        def draw() -> tuple[str]:
            if not self.held_out and random.random() < 0.4:
                return (random.choice(NAMES),)
            return ("".join(random.choices(SYLLABLES, k=random.randint(2, 3))).capitalize(),)

        return self.pick(random, "name", draw)[0]

    def digits(self, random: Random, kind: str, longest: int) -> str:
        """A string of 3 to `longest` digits."""
        return self.pick(
            random,
            kind,
            lambda: ("".join(random.choices(string.digits, k=random.randint(3, longest))),),
        )[0]


def words_of(texts: Iterable[str]) -> list[str]:
    """All words of 3 to 10 small letters that stand alone in the texts, in order."""
    found: set[str] = set()
    for text in texts:
        found.update(re.findall(r"(?<![A-Za-z'-])[a-z]{3,10}(?![A-Za-z'-])", text))
    return sorted(found)


def letters(random: Random) -> str:
    """3 to 10 random letters."""
    return "".join(random.choices(string.ascii_lowercase, k=random.randint(3, 10)))


def number(random: Random, digits: int) -> int:
    """A number of so many digits; 0 has one."""
    return (
        random.randint(0, 9) if digits == 1 else random.randint(10 ** (digits - 1), 10**digits - 1)
    )


def quoted(random: Random, text: str) -> str:
    """The text, in quotes a little more often than not: quoted words are spelled in bytes."""
    return f'"{text}"' if random.random() < 0.55 else text


def ask(random: Random, templates: Sequence[str], **values: object) -> str:
    """One of the templates, filled in."""
    return random.choice(templates).format(**values)
