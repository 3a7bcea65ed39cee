r"""Generate conversations for training, and the held-out questions of the evaluation.

Each message is followed by a blank line: `User: ...\n\nAssistant: ...\n\n`. Only the assistant's
messages contribute to the loss, and the results of calculations have a larger weight.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

from recipes.demo_model import numbers
from recipes.demo_model.exercises import Exercise, Source
from recipes.demo_model.facts import CAPITALS, NOUNS
from recipes.demo_model.kinds import KINDS
from recipes.demo_model.replies import MANNERS, REPLIES, SORRY, TOO_HARD, UNKNOWN, UNKNOWN_QUESTIONS
from wkv.train.data import Segment

SUMS = {"add": numbers.add, "sub": numbers.subtract}

RESULT_WEIGHT = 3.0
"""Loss weight of the digits of a result, which are the difficult part; other answers have 1."""

ASK_NAME = [
    "What is my name?", "Do you remember my name?", "What's my name?", "Who am I?",
    "Tell me my name.", "what is my name?", "Can you say my name?",
]  # fmt: skip
GIVE_NAME = [
    "My name is {n}.", "I am {n}.", "Hello, my name is {n}.", "Hi, I'm {n}.", "My name is {n}",
    "Hi! I am {n}.", "Call me {n}.", "Hello! My name is {n}.", "my name is {n}",
]  # fmt: skip
FIRST_WORDS = re.compile(
    "(What|Which|Who|Where|When|Why|How|Reverse|Spell|Write|Repeat|Copy|Say|Please|Count|Next"
    "|Uppercase|Put|Make|Sort|Opposite|Give|Plural|Capital|Tell|Name|Add|Subtract|Calculate"
    "|Multiply|Divide|My|Call|Do|Can|Are|Explain|Translate|Should)[?!.,'s]*( |$)"
)
"""First words of questions that may begin with a lower-case letter."""

REQUEST = re.compile("Write|Translate|Can you w|Please|Give|Summar|Explain|Can you e")
"""The beginning of templates that are requests for a task."""


def reply(random: Random) -> Exercise:
    """Sample a question with a fixed answer: small talk (70 %) or a fact."""
    questions, answer = random.choice(
        REPLIES[:MANNERS] if random.random() < 0.7 else REPLIES[MANNERS:]
    )
    return Exercise(random.choice(questions), answer)


def unknown(source: Source, random: Random) -> Exercise:
    """Create a question that the model cannot answer, with an answer that says so."""
    template = random.choice(UNKNOWN_QUESTIONS)
    noun = random.choice(source.words if random.random() < 0.6 else NOUNS)
    question = template.format(
        n=noun, n2=random.choice(source.words), N=source.name(random), d=random.randint(5, 2000)
    )
    if REQUEST.match(template):
        return Exercise(question, TOO_HARD)
    return Exercise(question, UNKNOWN if template.startswith("Wh") else SORRY)


def exercise(source: Source, random: Random) -> Exercise:
    """Create an exercise of a random kind."""
    kind = random.choices(list(KINDS), [weight for _, weight in KINDS.values()])[0]
    return KINDS[kind][0](source, random)


def turn(source: Source, random: Random) -> Exercise:
    """Create one question and answer, which is an exercise in 86 % of cases."""
    x = random.random()
    if x < 0.86:
        return exercise(source, random)
    return reply(random) if x < 0.95 else unknown(source, random)


def introduction(random: Random, name: str) -> Exercise:
    """Create a turn in which the user gives a name."""
    return Exercise(
        random.choice(GIVE_NAME).format(n=name), f"Nice to meet you, {name}! How can I help you?"
    )


def name_question(random: Random, name: str) -> Exercise:
    """Create a turn in which the user asks for the name."""
    return Exercise(random.choice(ASK_NAME), f"Your name is {name}.")


def _weighted(random: Random, weights: dict[int, float]) -> int:
    """Sample a number by its weight."""
    return random.choices(list(weights), list(weights.values()))[0]


def _named(source: Source, random: Random) -> list[Exercise]:
    """Create a conversation in which the user gives a name and asks for it later."""
    name = source.name(random)
    between = _weighted(random, {0: 5, 1: 3, 2: 2, 3: 1, 5: 0.7, 8: 0.4})
    turns = [
        introduction(random, name),
        *(turn(source, random) for _ in range(between)),
        name_question(random, name),
    ]
    if random.random() < 0.2:
        other = source.name(random)
        turns += [introduction(random, other), name_question(random, other)]
    if random.random() < 0.3:
        turns.append(turn(source, random))
    return turns


def _nameless(source: Source, random: Random) -> list[Exercise]:
    """Create a conversation in which the user asks for a name but has not given one."""
    turns = [turn(source, random)] if random.random() < 0.5 else []
    turns.append(
        Exercise(random.choice(ASK_NAME), "I do not know your name yet. What is your name?")
    )
    if random.random() < 0.4:
        name = source.name(random)
        statement = name if random.random() < 0.5 else f"My name is {name}."
        turns.append(Exercise(statement, f"Nice to meet you, {name}! How can I help you?"))
    return turns


def conversation(source: Source, random: Random) -> list[Exercise]:
    """Create a conversation of one or more turns."""
    x = random.random()
    if x < 0.09:
        return _named(source, random)
    if x < 0.105:
        return _nameless(source, random)
    if x < 0.16:
        first = reply(random) if random.random() < 0.7 else unknown(source, random)
        return [first, *(turn(source, random) for _ in range(random.randint(0, 2)))]
    length = _weighted(random, {1: 3, 2: 3, 3: 2, 4: 1, 5: 1, 8: 0.7, 12: 0.5})
    return [turn(source, random) for _ in range(length)]


def casual(random: Random, question: str) -> str:
    """Change a question as people type it, sometimes without capital letter or final mark."""
    if len(question) > 3 and FIRST_WORDS.match(question) and random.random() < 0.2:
        question = question[0].lower() + question[1:]
    if len(question) > 8 and question[-1] in ".?" and random.random() < 0.15:
        question = question[:-1]
    return question


def prompt(question: str) -> str:
    """Return the prompt of a question, which ends where the assistant's answer begins."""
    return f"User: {question}\n\nAssistant:"


def segments(turns: list[Exercise], random: Random) -> list[Segment]:
    """Return the text of a conversation in segments with their weights in the loss."""
    pieces: list[Segment] = []
    for question, answer, given in turns:
        pieces.append((prompt(casual(random, question)), 0.0))
        if given:
            pieces.append((" " + answer[:given], 1.0))
            pieces.append((answer[given:], RESULT_WEIGHT))
            pieces.append(("\n\n", 1.0))
        else:
            pieces.append((f" {answer}\n\n", 1.0))
    return pieces


def write_document(source: Source) -> Callable[[Random], list[Segment]]:
    """Return a function that generates conversations for `wkv.train.data.PackedDocuments`."""
    return lambda random: segments(conversation(source, random), random)


def evaluation_set(source: Source, count: int, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Create held-out prompts with their only right answers, `count` of each kind.

    Sums are separate kinds by number of digits. Each capital is asked once. `name` asks for a name
    in the next turn, `name+1` one turn later. `intent` asks the first question of every reply.
    """
    random = Random(seed)
    source = replace(source, held_out=True, _of_kind={})
    sets: dict[str, list[Exercise]] = {}
    for kind, (make, _) in KINDS.items():
        if kind in SUMS:
            for digits in (1, 2, 3):
                sets[f"{kind}{digits}"] = [SUMS[kind](source, random, digits) for _ in range(count)]
        elif kind == "cap":
            sets[kind] = [
                Exercise(f"What is the capital of {c}?", f"The capital of {c} is {k}.")
                for c, k in CAPITALS
            ]
        else:
            sets[kind] = [make(source, random) for _ in range(count)]
    sets["intent"] = [Exercise(questions[0], answer) for questions, answer in REPLIES]
    items = {
        kind: [(prompt(item.question), item.answer) for item in made] for kind, made in sets.items()
    }
    items["name"] = [_name_item(source, random, 0) for _ in range(count)]
    items["name+1"] = [_name_item(source, random, 1) for _ in range(count)]
    return items


def _name_item(source: Source, random: Random, between: int) -> tuple[str, str]:
    """Create a conversation that ends with the question for the name, and the answer to it."""
    name = source.name(random)
    turns = [introduction(random, name)]
    for _ in range(between):
        turns.append(KINDS[random.choice(list(KINDS))][0](source, random))
    question, answer, _ = name_question(random, name)
    return "".join(f"{prompt(t.question)} {t.answer}\n\n" for t in turns) + prompt(question), answer
