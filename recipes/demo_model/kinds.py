"""The kinds of exercises and their frequencies."""

from collections.abc import Callable
from random import Random

from recipes.demo_model import numbers, words
from recipes.demo_model.exercises import Exercise, Source

KINDS: dict[str, tuple[Callable[[Source, Random], Exercise], float]] = {
    "add": (numbers.add, 4.0),
    "sub": (numbers.subtract, 7.0),
    "rev": (words.reverse_word, 2.2),
    "revd": (numbers.reverse_digits, 0.7),
    "copy": (words.copy, 2.4),
    "count": (numbers.count, 0.5),
    "next": (words.neighbor, 0.4),
    "upper": (words.uppercase, 1.6),
    "sort": (numbers.sort_digits, 0.8),
    "spell": (words.spell, 1.4),
    "len": (words.letter_count, 1.3),
    "big": (numbers.bigger, 0.8),
    "opp": (words.opposite, 0.5),
    "plur": (words.plural_of, 1.6),
    "cap": (words.capital, 1.2),
    "mul": (numbers.multiply, 0.7),
    "toobig": (numbers.too_big, 0.5),
}
"""For each kind, the function that creates an exercise and its relative frequency in training."""
