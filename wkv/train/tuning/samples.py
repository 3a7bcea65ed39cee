"""Answers to held-out questions before and after training, for a reader."""

from collections.abc import Sequence
from dataclasses import dataclass

from wkv.inference.generate import generate
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling
from wkv.models.state import State
from wkv.prompting.template import SEPARATOR, template_for
from wkv.train.tuning.session import Session

MAX_TOKENS = 96
"""Largest number of tokens of a sample."""

PROSE_PROMPT = 32
"""Number of tokens of a text that are continued."""


@dataclass(frozen=True)
class Question:
    """A prompt and the answer in the data.

    Attributes:
        ids: the ids of the prompt.
        prompt, expected: the texts.
    """

    ids: list[int]
    prompt: str
    expected: str


def questions(session: Session) -> list[Question]:
    """Return some held-out prompts, evenly chosen."""
    count = session.options.samples
    documents = session.data.held_out
    if not count or not documents:
        return []
    found = []
    for document in documents[:: max(1, len(documents) // count)][:count]:
        first, end = PROSE_PROMPT, len(document.ids)
        if document.answers:
            first, end = document.answers[0]
        decode = session.model.tokenizer.decode
        ids = document.ids[: max(1, min(first, len(document.ids) - 1))]
        found.append(Question(ids, decode(ids), decode(document.ids[first:end]).strip()))
    return found


def answers(model: Model, asked: Sequence[Question], state: State | None = None) -> list[str]:
    """Return the greedy answers of a model."""
    sampling = Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
    stop = [SEPARATOR, template_for(model).next_turn]
    return [
        generate(
            model, one.ids, sampling=sampling, max_tokens=MAX_TOKENS, stop=stop, state=state
        ).text.strip()
        for one in asked
    ]


def samples_page(
    asked: Sequence[Question], before: Sequence[str], after: Sequence[str], table: str
) -> str:
    """Return samples.md."""
    parts = ["# Answers to held-out questions before and after\n"]
    for question, old, new in zip(asked, before, after, strict=True):
        texts = (question.prompt, question.expected, old, new)
        names = ("question", "in the data", "before", "after")
        parts += [
            f"**{name}**\n\n" + "\n".join(f"    {line}" for line in text.split("\n")) + "\n"
            for name, text in zip(names, texts, strict=True)
        ]
        parts.append("---\n")
    if table:
        parts.append(f"# How long the state lasts\n\n{table}\n")
    return "\n".join(parts)
