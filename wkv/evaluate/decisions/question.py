"""Typed questions: yes or no, a choice among values, and a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wkv.errors import InputError

KINDS = ("predicate", "choice", "score")

MAX_OPTIONS = 255

Value = str | bool | int


@dataclass(frozen=True)
class Option:
    """One possible answer.

    Attributes:
        value: the value that the answer reports.
        text: the text that stands for it.
        description: what it means, for the model; may be empty.
    """

    value: Value
    text: str
    description: str = ""


@dataclass(frozen=True)
class Question:
    """A question about a text.

    Attributes:
        kind: "predicate" (yes or no), "choice" (one of several values) or "score" (levels in
            ascending order).
        instructions: the question.
        options: the possible answers.
        name: a name that the answer repeats; None without one.
    """

    kind: str
    instructions: str
    options: tuple[Option, ...]
    name: str | None = None

    @classmethod
    def predicate(cls, instructions: str, name: str | None = None) -> "Question":
        """Return a question with the answers yes and no."""
        return cls("predicate", instructions, (Option(True, "yes"), Option(False, "no")), name)

    @classmethod
    def choice(
        cls, instructions: str, values: Sequence[str | bool | Option], name: str | None = None
    ) -> "Question":
        """Return a question whose answer is one of 2 to 255 values.

        Raises:
            InputError: if there are too few or too many values, or two are equal.
        """
        options = tuple(
            value if isinstance(value, Option) else Option(value, _text_of(value))
            for value in values
        )
        return cls("choice", instructions, _checked(options, 2), name)

    @classmethod
    def score(
        cls, instructions: str, levels: Sequence[str | Option], name: str | None = None
    ) -> "Question":
        """Return a question whose answer is a level; the value of a level is its index.

        Raises:
            InputError: if there are no or too many levels, or two are equal.
        """
        options = tuple(
            Option(
                index,
                level.text if isinstance(level, Option) else level,
                level.description if isinstance(level, Option) else "",
            )
            for index, level in enumerate(levels)
        )
        return cls("score", instructions, _checked(options, 1), name)

    @classmethod
    def of(cls, question: Any) -> "Question":
        """Return a question from a text (a predicate), or from an object of `/v1/decisions`.

        Raises:
            InputError: if it is neither.
        """
        if isinstance(question, Question):
            return question
        if isinstance(question, str):
            question = {"type": "predicate", "instructions": question}
        if not isinstance(question, dict) or question.get("type") not in KINDS:
            raise InputError(
                f"a question is {question!r:.80}, expected a text, or an object whose type is one "
                f"of {', '.join(KINDS)}"
            )
        text, name = question.get("instructions"), question.get("name")
        if not isinstance(text, str) or not text.strip():
            raise InputError("a question has no instructions; write the question there")
        if name is not None and not isinstance(name, str):
            raise InputError(f"the name of a question is {name!r:.40}, expected a text")
        if question["type"] == "predicate":
            return cls.predicate(text, name)
        if question["type"] == "choice":
            return cls.choice(text, _options(question.get("choices"), "value"), name)
        return cls.score(text, _options(question.get("levels"), "label"), name)


def _options(entries: Any, key: str) -> list[Option]:
    """Return options from texts, or from objects with `key` and a description."""
    if not isinstance(entries, list):
        raise InputError(f"a question has {entries!r:.40}, expected a list of its possible answers")
    options = []
    for entry in entries:
        found = entry if isinstance(entry, dict) else {key: entry}
        value, description = found.get(key), found.get("description") or ""
        if not isinstance(value, (str, bool)) or not isinstance(description, str):
            raise InputError(f"a possible answer is {entry!r:.60}, expected a text with a {key}")
        options.append(Option(value, _text_of(value), description))
    return options


def _text_of(value: str | bool) -> str:
    """Return the text that stands for a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def _checked(options: tuple[Option, ...], fewest: int) -> tuple[Option, ...]:
    """Check the number of options, and that they differ."""
    if not fewest <= len(options) <= MAX_OPTIONS:
        raise InputError(
            f"a question has {len(options)} possible answers, expected {fewest} to {MAX_OPTIONS}"
        )
    texts = [option.text for option in options]
    if not all(text.strip() for text in texts):
        raise InputError("a possible answer is empty; give it a text")
    double = next((text for text in texts if texts.count(text) > 1), None)
    if double is not None:
        raise InputError(f"the answer {double!r:.60} occurs twice in a question; remove one")
    return options
