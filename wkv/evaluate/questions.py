r"""Questions with one right answer, from a file of JSON lines, and the answers of two models.

    {"prompt": "User: What is 2 + 3?\n\nAssistant:", "answer": "5"}
    {"prompt": "The capital of France is", "answer": "Paris"}

A model reads the prompt as it is. Its greedy reply must begin with the answer. If the last line of
the prompt is one word and a colon, as in `Assistant:`, a space precedes the answer, and an empty
line must follow it, so "50" is not "5". Elsewhere a space is inserted only between two ASCII
letters or digits. Other keys, such as the `kind` of the built-in model's questions, are ignored.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wkv.errors import InputError
from wkv.evaluate.intervals import Estimate, change
from wkv.evaluate.lambada import begin_ids
from wkv.evaluate.scoring import Pair, score
from wkv.files import read_text
from wkv.inference.model import Model

EXAMPLE = '{"prompt": "The capital of France is", "answer": "Paris"}'

BATCH = 16
"""Number of questions that a model reads at a time."""

TURN = re.compile(r"(^|\n)\w+:$")
WORDS = re.compile(r"[A-Za-z0-9]{2}")


@dataclass(frozen=True)
class Question:
    """A prompt and its right answer; neither is empty."""

    prompt: str
    answer: str

    @property
    def reply(self) -> str:
        """The text that the model must generate after the prompt."""
        if TURN.search(self.prompt):
            return f" {self.answer.strip()}\n\n"
        blank = " " if WORDS.fullmatch(self.prompt[-1] + self.answer[0]) else ""
        return blank + self.answer


@dataclass(frozen=True)
class Answers:
    """The answers of a model before and after a change.

    Attributes:
        asked: number of questions.
        right: share of right answers, before and after.
        lost, gained: number of answers that were right only before, and only after.
        change: the change of the share; negative if the model became worse.
    """

    asked: int
    right: tuple[float, float]
    lost: int
    gained: int
    change: Estimate


def read_questions(path: Path) -> list[Question]:
    """Read the questions of a file of JSON lines; empty lines are skipped.

    Raises:
        InputError: if the file cannot be read, has no question, or a line is not a JSON object with
            a prompt and an answer; names the line.
    """
    numbered = enumerate(read_text(path).split("\n"), start=1)
    found = [_question(line, f"{path}, line {number}") for number, line in numbered if line.strip()]
    if not found:
        raise InputError(f"{path}: there are no questions in it; expected lines such as {EXAMPLE}")
    return found


def _question(line: str, where: str) -> Question:
    """Return the question of a line.

    Raises:
        InputError: if the line is not valid; the message starts with `where`.
    """
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: {line[:40]!r} is not valid JSON ({error}); expected {EXAMPLE}"
        ) from error
    if not isinstance(entry, dict):
        raise InputError(f"{where}: {line[:40]!r} is not a JSON object; expected {EXAMPLE}")
    for key in ("prompt", "answer"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise InputError(f'{where}: "{key}" is not a text or is empty; expected {EXAMPLE}')
    return Question(entry["prompt"], entry["answer"])


def answered(
    model: Model,
    questions: Sequence[Question],
    on_done: Callable[[int], object] | None = None,
) -> list[bool]:
    """Return for each question whether greedy decoding gives the right answer.

    Reading prompt and answer once is sufficient: greedy decoding returns the answer if and only if
    each of its tokens is the most likely one after all tokens before it.

    Args:
        model: a model with a tokenizer.
        questions: the questions.
        on_done: called with the number of questions of each finished batch.
    """
    encode, begin = model.tokenizer.encode, begin_ids(model, "auto")
    pairs = [Pair([*begin, *encode(one.prompt)], encode(one.reply)) for one in questions]
    return [one.is_greedy for one in score(model, pairs, BATCH, on_done)]


def compare_answers(
    before: Model,
    after: Model,
    questions: Sequence[Question],
    on_done: Callable[[int, int], object] = lambda done, total: None,
) -> Answers:
    """Ask two models the same questions, at least one.

    Args:
        before, after: models with the same tokenizer.
        questions: the questions.
        on_done: called with the number of answers so far, of both models, and the total number.
    """
    done = 0

    def count(some: int) -> None:
        nonlocal done
        done += some
        on_done(done, 2 * len(questions))

    ours, theirs = (answered(model, questions, count) for model in (before, after))
    pairs = list(zip(ours, theirs, strict=True))
    return Answers(
        len(questions),
        (sum(ours) / len(ours), sum(theirs) / len(theirs)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        change(ours, theirs),
    )
