"""Exercises with one right answer each, made at random: sums, words, digits, counting, facts.

Every twentieth item, chosen by a checksum of its kind and its content, is held out: training
never sees it, the evaluation sees nothing else. Kinds that are learned by heart (capitals,
opposites, days, the times table) have no held-out items.
"""

import string
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from wkv.demo.facts import CAPITALS, DAYS, IRREGULAR_PLURALS, MONTHS, NAMES, NOUNS, OPPOSITES, SYLLABLES, plural

HELD_OUT_OF = 20
RANDOM_WORDS, VOCABULARY_WORDS = 0.25, 0.35
"""Shares of the training words that are random letters, or words of which the model has a token."""


class Exercise(NamedTuple):
    """A question and its answer; `given` characters at the start of the answer repeat the question."""

    question: str
    answer: str
    given: int = 0


def is_held_out(kind: str, *key: object) -> bool:
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

    def pick(self, random: Random, kind: str, draw: Callable[[], tuple]) -> tuple:
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
            self._of_kind[kind, tokens] = [w for w in words if is_held_out(kind, w) == self.held_out]
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
        return self.pick(random, kind, lambda: ("".join(random.choices(string.digits, k=random.randint(3, longest))),))[0]


def words_of(texts: Iterable[str]) -> list[str]:
    """All words of 3 to 10 small letters that stand alone in the texts, in order."""
    import re

    found: set[str] = set()
    for text in texts:
        found.update(re.findall(r"(?<![A-Za-z'-])[a-z]{3,10}(?![A-Za-z'-])", text))
    return sorted(found)


def letters(random: Random) -> str:
    """3 to 10 random letters."""
    return "".join(random.choices(string.ascii_lowercase, k=random.randint(3, 10)))


def number(random: Random, digits: int) -> int:
    """A number of so many digits; 0 has one."""
    return random.randint(0, 9) if digits == 1 else random.randint(10 ** (digits - 1), 10**digits - 1)


def quoted(random: Random, text: str) -> str:
    """The text, in quotes a little more often than not: quoted words are spelled in bytes."""
    return f'"{text}"' if random.random() < 0.55 else text


def ask(random: Random, templates: Sequence[str], **values: object) -> str:
    """One of the templates, filled in."""
    return random.choice(templates).format(**values)


ADD = [
    "What is {a} + {b}?", "{a} + {b}", "{a} + {b} = ?", "Add {a} and {b}.", "What is {a} plus {b}?",
    "{a}+{b}", "Calculate {a} + {b}.", "{a}+{b}=", "How much is {a} + {b}?",
]  # fmt: skip
SUBTRACT = [
    "What is {a} - {b}?", "{a} - {b}", "{a} - {b} = ?", "Subtract {b} from {a}.",
    "What is {a} minus {b}?", "{a}-{b}", "Calculate {a} - {b}.", "{a}-{b}=", "How much is {a} - {b}?",
]  # fmt: skip
DIGITS_IN_SUMS = (1, 3, 8)
"""How often sums have one, two and three digits in training: three are the hardest."""


def _summands(random: Random, digits: int | None) -> tuple[int, int]:
    """Two numbers: one of `digits` digits, the other mostly so, too."""
    size = digits or random.choices((1, 2, 3), DIGITS_IN_SUMS)[0]
    first = number(random, size)
    second = number(random, size if random.random() < 0.7 else random.randint(1, size))
    return (first, second) if random.random() < 0.5 else (second, first)


def add(source: Source, random: Random, digits: int | None = None) -> Exercise:
    """a + b, with up to three digits."""
    a, b = source.pick(random, "add", lambda: _summands(random, digits))
    sum_of = f"{a} + {b} ="
    return Exercise(ask(random, ADD, a=a, b=b), f"{sum_of} {a + b}", len(sum_of))


def subtract(source: Source, random: Random, digits: int | None = None) -> Exercise:
    """a - b, now and then with a negative result."""

    def draw() -> tuple[int, int]:
        pair = _summands(random, digits)
        return max(pair), min(pair)

    a, b = source.pick(random, "sub", draw)
    if random.random() < 0.12:
        a, b = b, a
    difference_of = f"{a} - {b} ="
    return Exercise(ask(random, SUBTRACT, a=a, b=b), f"{difference_of} {a - b}", len(difference_of))


def reverse_word(source: Source, random: Random) -> Exercise:
    """A word backwards."""
    w = source.word(random, "rev")
    templates = [
        "Reverse the word {w}.", "Reverse {w}.", "Reverse {w}", "Spell {w} backwards.",
        "What is {w} backwards?", "Write the word {w} backwards.",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w[::-1]}"')


def reverse_digits(source: Source, random: Random) -> Exercise:
    """Digits backwards."""
    w = source.digits(random, "revd", 10)
    templates = [
        "Reverse the digits {w}.", "Reverse {w}.", "Reverse {w}", "What is {w} backwards?",
        "Write {w} backwards.",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w[::-1]}"')


def copy(source: Source, random: Random) -> Exercise:
    """The same word, digits, or two to four words again."""
    if random.random() < (0.3 if source.held_out else 0.5):
        w = " ".join(source.word(random, "copy") for _ in range(random.randint(2, 4)))
    elif random.random() < 0.3:
        w = source.digits(random, "copyd", 10)
    else:
        w = source.word(random, "copy")
    templates = ["Repeat {w}.", "Repeat after me: {w}", "Copy {w}.", "Say {w}.", "Please repeat: {w}", "Repeat: {w}"]
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w}"')


def count(source: Source, random: Random) -> Exercise:
    """Numbers in order, from 1 or from somewhere else."""
    if random.random() < 0.4:
        first, last = 1, random.randint(2, 20)
        templates = [
            "Count to {b}.", "Count to {b}", "Count from 1 to {b}.", "Please count to {b}.", "Count up to {b}.",
        ]  # fmt: skip
    else:

        def draw() -> tuple[int, int]:
            start = random.randint(1, 89)
            return start, start + random.randint(2, 10)

        first, last = source.pick(random, "count", draw)
        templates = ["Count from {a} to {b}.", "Count from {a} to {b}", "Please count from {a} to {b}."]
    return Exercise(ask(random, templates, a=first, b=last), ", ".join(map(str, range(first, last + 1))))


def neighbour(source: Source, random: Random) -> Exercise:
    """The day or month after or before another."""
    cycle, unit = (DAYS, "day") if random.random() < 0.45 else (MONTHS, "month")
    place = random.randrange(len(cycle))
    here = cycle[place]
    if random.random() < 0.7:
        templates = [
            "What {n} comes after {x}?", "Which {n} comes after {x}?", "What is the {n} after {x}?",
            "Next {n} after {x}?", "Which {n} follows {x}?",
        ]  # fmt: skip
        return Exercise(ask(random, templates, n=unit, x=here), f"{cycle[(place + 1) % len(cycle)]} comes after {here}.")
    templates = ["What {n} comes before {x}?", "Which {n} comes before {x}?", "What is the {n} before {x}?"]
    return Exercise(ask(random, templates, n=unit, x=here), f"{cycle[place - 1]} comes before {here}.")


def uppercase(source: Source, random: Random) -> Exercise:
    """A word in capital letters."""
    w = source.word(random, "upper")
    templates = [
        "Write {w} in capital letters.", "Uppercase {w}.", "Uppercase {w}", "Write {w} in uppercase.",
        "Put {w} in capitals.", "Make {w} uppercase.",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w.upper()}"')


def sort_digits(source: Source, random: Random) -> Exercise:
    """Digits in rising order."""
    w = source.digits(random, "sort", 8)
    templates = [
        "Sort the digits of {w}.", "Sort {w}.", "Sort the digits {w}.",
        "Put the digits of {w} in order.", "Sort the digits of {w}",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{"".join(sorted(w))}"')


def spell(source: Source, random: Random) -> Exercise:
    """A word letter by letter."""
    w = source.word(random, "spell")
    templates = ["Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "Spell {w}"]
    return Exercise(ask(random, templates, w=quoted(random, w)), "-".join(w))


def letter_count(source: Source, random: Random) -> Exercise:
    """How many letters a word has."""
    w = source.word(random, "len")
    templates = ["How many letters are in {w}?", "How many letters does {w} have?", "Count the letters in {w}."]
    return Exercise(ask(random, templates, w=quoted(random, w)), f'The word "{w}" has {len(w)} letters.')


def bigger(source: Source, random: Random) -> Exercise:
    """The bigger of two numbers."""

    def draw() -> tuple[int, int]:
        size = random.randint(1, 3)
        return number(random, size), number(random, size if random.random() < 0.8 else random.randint(1, 3))

    while True:
        a, b = source.pick(random, "big", draw)
        if a == b:
            b = a + 1
        if source.held_out or not _is_evaluated_comparison(a, b):
            break
    templates = ["Which is bigger, {a} or {b}?", "Which number is larger: {a} or {b}?", "Which is greater, {a} or {b}?"]
    return Exercise(ask(random, templates, a=a, b=b), f"{max(a, b)} is bigger than {min(a, b)}.")


def _is_evaluated_comparison(a: int, b: int) -> bool:
    """Whether the evaluation may ask for a and b in either order; equal numbers are asked as a, a + 1."""
    low, high = min(a, b), max(a, b)
    as_equal = high == low + 1 and is_held_out("big", low, low)
    return as_equal or is_held_out("big", a, b) or is_held_out("big", b, a)


def opposite(source: Source, random: Random) -> Exercise:
    """The opposite of a word from the list, in both directions where that is clear."""
    a, b = random.choice(OPPOSITES)
    lefts, rights = zip(*OPPOSITES, strict=True)
    if random.random() < 0.4 and rights.count(b) == 1 and b not in lefts:
        a, b = b, a
    templates = [
        "What is the opposite of {a}?", "Opposite of {a}?", "Give me the opposite of {a}.",
        "What is the opposite of the word {a}?", "The opposite of {a} is",
    ]  # fmt: skip
    return Exercise(ask(random, templates, a=quoted(random, a)), f'The opposite of "{a}" is "{b}".')


def plural_of(source: Source, random: Random) -> Exercise:
    """The plural of a noun; training also applies the rule to any other word, as to a new noun."""
    if source.held_out:
        noun = random.choice([noun for noun in NOUNS if is_held_out("plur", noun)])
    elif random.random() < 0.55:
        noun = source.word(random, "plur")
    elif random.random() < 0.7:
        noun = random.choice([noun for noun in NOUNS if not is_held_out("plur", noun)])
    else:
        noun = random.choice(list(IRREGULAR_PLURALS))
    templates = [
        "What is the plural of {a}?", "Plural of {a}?", "Give me the plural of {a}.",
        "What is the plural of the word {a}?",
    ]  # fmt: skip
    return Exercise(ask(random, templates, a=quoted(random, noun)), f'The plural of "{noun}" is "{plural(noun)}".')


def capital(source: Source, random: Random) -> Exercise:
    """The capital of a country, or the country of a capital."""
    country, city = random.choice(CAPITALS)
    if random.random() < 0.75:
        templates = [
            "What is the capital of {c}?", "Capital of {c}?", "Tell me the capital of {c}.",
            "What's the capital of {c}?", "Which city is the capital of {c}?", "Name the capital of {c}.",
        ]  # fmt: skip
        return Exercise(ask(random, templates, c=country), f"The capital of {country} is {city}.")
    templates = ["{k} is the capital of which country?", "Which country has the capital {k}?"]
    return Exercise(ask(random, templates, k=city), f"{city} is the capital of {country}.")


def multiply(source: Source, random: Random) -> Exercise:
    """The times table up to 12 x 12, learned by heart."""
    a, b = random.randint(0, 12), random.randint(0, 12)
    templates = [
        "What is {a} times {b}?", "What is {a} * {b}?", "{a} * {b}", "{a}*{b}", "Multiply {a} and {b}.",
        "What is {a} x {b}?", "{a} x {b}", "How much is {a} times {b}?",
    ]  # fmt: skip
    return Exercise(ask(random, templates, a=a, b=b), f"{a} x {b} = {a * b}")


def too_big(source: Source, random: Random) -> Exercise:
    """Sums beyond three digits, products beyond the table, divisions: the right answer is to say so."""
    chance = random.random()
    if chance < 0.5:
        a, b = number(random, random.choice((4, 4, 5, 6))), number(random, random.randint(1, 5))
        a, b = (a, b) if random.random() < 0.5 else (b, a)
        sign = random.choice("+-")
        templates = ["What is {a} {o} {b}?", "{a} {o} {b}", "{a}{o}{b}", "Calculate {a} {o} {b}."]
        answer = "These numbers are too big for me. I can add and subtract numbers of up to three digits."
        return Exercise(ask(random, templates, a=a, b=b, o=sign), answer)
    if chance < 0.85:
        a, b = random.randint(13, 999), random.randint(2, 999)
        a, b = (b, a) if random.random() < 0.3 else (a, b)
        templates = ["What is {a} times {b}?", "What is {a} * {b}?", "{a} * {b}", "{a}*{b}", "{a} x {b}", "What is {a} x {b}?"]
        return Exercise(ask(random, templates, a=a, b=b), "That is too hard for me. I know the times tables up to 12 x 12.")
    a, b = random.randint(2, 999), random.randint(2, 99)
    templates = ["What is {a} divided by {b}?", "What is {a} / {b}?", "{a} / {b}", "{a}/{b}", "Divide {a} by {b}."]
    answer = "I have not learned to divide. I can add, subtract and multiply small numbers."
    return Exercise(ask(random, templates, a=a, b=b), answer)


KINDS: dict[str, tuple[Callable[[Source, Random], Exercise], float]] = {
    "add": (add, 4.0),
    "sub": (subtract, 7.0),
    "rev": (reverse_word, 2.2),
    "revd": (reverse_digits, 0.7),
    "copy": (copy, 2.4),
    "count": (count, 0.5),
    "next": (neighbour, 0.4),
    "upper": (uppercase, 1.6),
    "sort": (sort_digits, 0.8),
    "spell": (spell, 1.4),
    "len": (letter_count, 1.3),
    "big": (bigger, 0.8),
    "opp": (opposite, 0.5),
    "plur": (plural_of, 1.6),
    "cap": (capital, 1.2),
    "mul": (multiply, 0.7),
    "toobig": (too_big, 0.5),
}
"""Kind: how to make one, and how often it comes up in training."""
