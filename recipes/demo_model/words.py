"""Create exercises with words and facts."""

from random import Random

from recipes.demo_model.exercises import Exercise, Source, ask, is_held_out, quoted
from recipes.demo_model.facts import (
    CAPITALS,
    DAYS,
    IRREGULAR_PLURALS,
    MONTHS,
    NOUNS,
    OPPOSITES,
    plural,
)


def reverse_word(source: Source, random: Random) -> Exercise:
    """Create an exercise to write a word backwards."""
    w = source.word(random, "rev")
    templates = [
        "Reverse the word {w}.", "Reverse {w}.", "Reverse {w}", "Spell {w} backwards.",
        "What is {w} backwards?", "Write the word {w} backwards.",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w[::-1]}"')


def copy(source: Source, random: Random) -> Exercise:
    """Create an exercise to repeat a word, digits, or two to four words."""
    if random.random() < (0.3 if source.held_out else 0.5):
        w = " ".join(source.word(random, "copy") for _ in range(random.randint(2, 4)))
    elif random.random() < 0.3:
        w = source.digits(random, "copyd", 10)
    else:
        w = source.word(random, "copy")
    templates = [
        "Repeat {w}.",
        "Repeat after me: {w}",
        "Copy {w}.",
        "Say {w}.",
        "Please repeat: {w}",
        "Repeat: {w}",
    ]
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w}"')


def uppercase(source: Source, random: Random) -> Exercise:
    """Create an exercise to write a word in capital letters."""
    w = source.word(random, "upper")
    templates = [
        "Write {w} in capital letters.", "Uppercase {w}.", "Uppercase {w}",
        "Write {w} in uppercase.",
        "Put {w} in capitals.", "Make {w} uppercase.",
    ]  # fmt: skip
    return Exercise(ask(random, templates, w=quoted(random, w)), f'"{w.upper()}"')


def spell(source: Source, random: Random) -> Exercise:
    """Create an exercise to spell a word letter by letter."""
    w = source.word(random, "spell")
    templates = ["Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "Spell {w}"]
    return Exercise(ask(random, templates, w=quoted(random, w)), "-".join(w))


def letter_count(source: Source, random: Random) -> Exercise:
    """Create an exercise to count the letters of a word."""
    w = source.word(random, "len")
    templates = [
        "How many letters are in {w}?",
        "How many letters does {w} have?",
        "Count the letters in {w}.",
    ]
    return Exercise(
        ask(random, templates, w=quoted(random, w)), f'The word "{w}" has {len(w)} letters.'
    )


def plural_of(source: Source, random: Random) -> Exercise:
    """Create an exercise to form a plural. Training also uses other words as if they were nouns."""
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
    return Exercise(
        ask(random, templates, a=quoted(random, noun)),
        f'The plural of "{noun}" is "{plural(noun)}".',
    )


def opposite(source: Source, random: Random) -> Exercise:
    """Create an exercise to name an opposite, in both directions if the answer is unambiguous."""
    a, b = random.choice(OPPOSITES)
    lefts, rights = zip(*OPPOSITES, strict=True)
    if random.random() < 0.4 and rights.count(b) == 1 and b not in lefts:
        a, b = b, a
    templates = [
        "What is the opposite of {a}?", "Opposite of {a}?", "Give me the opposite of {a}.",
        "What is the opposite of the word {a}?", "The opposite of {a} is",
    ]  # fmt: skip
    return Exercise(ask(random, templates, a=quoted(random, a)), f'The opposite of "{a}" is "{b}".')


def neighbor(source: Source, random: Random) -> Exercise:
    """Create an exercise to name the day or month after or before another one."""
    cycle, unit = (DAYS, "day") if random.random() < 0.45 else (MONTHS, "month")
    place = random.randrange(len(cycle))
    here = cycle[place]
    if random.random() < 0.7:
        templates = [
            "What {n} comes after {x}?", "Which {n} comes after {x}?", "What is the {n} after {x}?",
            "Next {n} after {x}?", "Which {n} follows {x}?",
        ]  # fmt: skip
        return Exercise(
            ask(random, templates, n=unit, x=here),
            f"{cycle[(place + 1) % len(cycle)]} comes after {here}.",
        )
    templates = [
        "What {n} comes before {x}?",
        "Which {n} comes before {x}?",
        "What is the {n} before {x}?",
    ]
    return Exercise(
        ask(random, templates, n=unit, x=here), f"{cycle[place - 1]} comes before {here}."
    )


def capital(source: Source, random: Random) -> Exercise:
    """Create an exercise to name the capital of a country, or the country of a capital."""
    country, city = random.choice(CAPITALS)
    if random.random() < 0.75:
        templates = [
            "What is the capital of {c}?", "Capital of {c}?", "Tell me the capital of {c}.",
            "What's the capital of {c}?", "Which city is the capital of {c}?",
            "Name the capital of {c}.",
        ]  # fmt: skip
        return Exercise(ask(random, templates, c=country), f"The capital of {country} is {city}.")
    templates = ["{k} is the capital of which country?", "Which country has the capital {k}?"]
    return Exercise(ask(random, templates, k=city), f"{city} is the capital of {country}.")
