"""Create exercises with numbers and digits."""

from random import Random

from recipes.demo_model.exercises import Exercise, Source, ask, is_held_out, number, quoted

ADD = [
    "What is {a} + {b}?", "{a} + {b}", "{a} + {b} = ?", "Add {a} and {b}.", "What is {a} plus {b}?",
    "{a}+{b}", "Calculate {a} + {b}.", "{a}+{b}=", "How much is {a} + {b}?",
]  # fmt: skip

SUBTRACT = [
    "What is {a} - {b}?", "{a} - {b}", "{a} - {b} = ?", "Subtract {b} from {a}.",
    "What is {a} minus {b}?", "{a}-{b}", "Calculate {a} - {b}.", "{a}-{b}=",
    "How much is {a} - {b}?",
]  # fmt: skip

DIGITS_IN_SUMS = (1, 3, 8)
"""Relative frequencies of sums with one, two and three digits in training; three are hardest."""


def _summands(random: Random, digits: int | None) -> tuple[int, int]:
    """Sample two numbers: one has `digits` digits, the other at most so many."""
    size = digits or random.choices((1, 2, 3), DIGITS_IN_SUMS)[0]
    first = number(random, size)
    second = number(random, size if random.random() < 0.7 else random.randint(1, size))
    return (first, second) if random.random() < 0.5 else (second, first)


def add(source: Source, random: Random, digits: int | None = None) -> Exercise:
    """Create an addition of numbers with up to three digits."""
    a, b = source.pick(random, "add", lambda: _summands(random, digits))
    problem = f"{a} + {b} ="
    return Exercise(ask(random, ADD, a=a, b=b), f"{problem} {a + b}", len(problem))


def subtract(source: Source, random: Random, digits: int | None = None) -> Exercise:
    """Create a subtraction of numbers with up to three digits; some results are negative."""

    def sample() -> tuple[int, int]:
        pair = _summands(random, digits)
        return max(pair), min(pair)

    a, b = source.pick(random, "sub", sample)
    if random.random() < 0.12:
        a, b = b, a
    problem = f"{a} - {b} ="
    return Exercise(ask(random, SUBTRACT, a=a, b=b), f"{problem} {a - b}", len(problem))


def reverse_digits(source: Source, random: Random) -> Exercise:
    """Create an exercise to write digits backwards."""
    w = source.digits(random, "revd", 10)
    templates = [
        "Reverse the digits {w}.", "Reverse {w}.", "Reverse {w}", "What is {w} backwards?",
        "Write {w} backwards.",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w[::-1]}"')


def sort_digits(source: Source, random: Random) -> Exercise:
    """Create an exercise to sort digits in ascending order."""
    w = source.digits(random, "sort", 8)
    templates = [
        "Sort the digits of {w}.", "Sort {w}.", "Sort the digits {w}.",
        "Put the digits of {w} in order.", "Sort the digits of {w}",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{"".join(sorted(w))}"')


def count(source: Source, random: Random) -> Exercise:
    """Create an exercise to count, from 1 or from another number."""
    if random.random() < 0.4:
        first, last = 1, random.randint(2, 20)
        templates = [
            "Count to {b}.", "Count to {b}", "Count from 1 to {b}.", "Please count to {b}.",
            "Count up to {b}.",
        ]  # fmt: skip
    else:

        def sample() -> tuple[int, int]:
            start = random.randint(1, 89)
            return start, start + random.randint(2, 10)

        first, last = source.pick(random, "count", sample)
        templates = [
            "Count from {a} to {b}.",
            "Count from {a} to {b}",
            "Please count from {a} to {b}.",
        ]
    return Exercise(
        ask(random, templates, a=first, b=last), ", ".join(map(str, range(first, last + 1)))
    )


def bigger(source: Source, random: Random) -> Exercise:
    """Create an exercise to name the bigger of two numbers."""

    def sample() -> tuple[int, int]:
        size = random.randint(1, 3)
        return number(random, size), number(
            random, size if random.random() < 0.8 else random.randint(1, 3)
        )

    while True:
        a, b = source.pick(random, "big", sample)
        if a == b:
            b = a + 1
        if source.held_out or not _is_evaluated_comparison(a, b):
            break
    templates = [
        "Which is bigger, {a} or {b}?",
        "Which number is larger: {a} or {b}?",
        "Which is greater, {a} or {b}?",
    ]
    return Exercise(ask(random, templates, a=a, b=b), f"{max(a, b)} is bigger than {min(a, b)}.")


def _is_evaluated_comparison(a: int, b: int) -> bool:
    """Check whether the evaluation may contain two numbers, in either order.

    Two equal numbers are asked as a and a + 1.
    """
    low, high = min(a, b), max(a, b)
    as_equal = high == low + 1 and is_held_out("big", low, low)
    return as_equal or is_held_out("big", a, b) or is_held_out("big", b, a)


def multiply(source: Source, random: Random) -> Exercise:
    """Create a multiplication of the times table up to 12 x 12, which the model memorizes."""
    a, b = random.randint(0, 12), random.randint(0, 12)
    templates = [
        "What is {a} times {b}?", "What is {a} * {b}?", "{a} * {b}", "{a}*{b}",
        "Multiply {a} and {b}.",
        "What is {a} x {b}?", "{a} x {b}", "How much is {a} times {b}?",
    ]  # fmt: skip
    return Exercise(ask(random, templates, a=a, b=b), f"{a} x {b} = {a * b}")


def too_big(source: Source, random: Random) -> Exercise:
    """Create a calculation that is too hard for the model; the right answer is to say so."""
    chance = random.random()
    if chance < 0.5:
        a, b = number(random, random.choice((4, 4, 5, 6))), number(random, random.randint(1, 5))
        a, b = (a, b) if random.random() < 0.5 else (b, a)
        sign = random.choice("+-")
        templates = ["What is {a} {o} {b}?", "{a} {o} {b}", "{a}{o}{b}", "Calculate {a} {o} {b}."]
        answer = (
            "These numbers are too big for me. "
            "I can add and subtract numbers of up to three digits."
        )
        return Exercise(ask(random, templates, a=a, b=b, o=sign), answer)
    if chance < 0.85:
        a, b = random.randint(13, 999), random.randint(2, 999)
        a, b = (b, a) if random.random() < 0.3 else (a, b)
        templates = [
            "What is {a} times {b}?",
            "What is {a} * {b}?",
            "{a} * {b}",
            "{a}*{b}",
            "{a} x {b}",
            "What is {a} x {b}?",
        ]
        return Exercise(
            ask(random, templates, a=a, b=b),
            "That is too hard for me. I know the times tables up to 12 x 12.",
        )
    a, b = random.randint(2, 999), random.randint(2, 99)
    templates = [
        "What is {a} divided by {b}?",
        "What is {a} / {b}?",
        "{a} / {b}",
        "{a}/{b}",
        "Divide {a} by {b}.",
    ]
    answer = "I have not learned to divide. I can add, subtract and multiply small numbers."
    return Exercise(ask(random, templates, a=a, b=b), answer)
