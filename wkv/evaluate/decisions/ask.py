"""Answer questions about a text: read it once, then let each question continue from its state.

    p(label) = product of p(token | tokens before it)      from the state after the question
    P(option) = p(its label) / sum of p over all labels

If a label is the beginning of another one, such as 1 and 10, the probability of the longer one is
subtracted from that of the shorter one.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from wkv.errors import InputError
from wkv.evaluate.decisions.answer import Answer
from wkv.evaluate.decisions.labels import Form, form_of
from wkv.evaluate.decisions.question import Question
from wkv.inference.model import Model
from wkv.inference.prefill import has_leading_zero, prompt_ids, read_rows
from wkv.models.state import State
from wkv.prompting.template import SEPARATOR, Message, Template, Thinking, template_for
from wkv.tokenizers.world import WORLD_VOCAB_SIZE

MAX_QUESTIONS = 400

ROWS = 16
"""Number of questions that are read as one batch; limits memory."""

LEAD_TOKENS = 6
"""Largest number of tokens that a model writes between a closing tag and its answer."""


@dataclass(frozen=True)
class Decisions:
    """The answers to questions.

    Attributes:
        answers: one for each question.
        tokens: number of tokens that were read: those of the text once, and of each question.
    """

    answers: tuple[Answer, ...]
    tokens: int


def decide(
    model: Model,
    text: str | Sequence[Message],
    questions: Sequence[Any],
    *,
    state: State | None = None,
) -> list[Answer]:
    """Answer questions about a text, by probabilities.

    Args:
        model: the model.
        text: a text, or the messages of a conversation.
        questions: `Question` objects, texts (yes or no), or objects of `/v1/decisions`.
        state: a state to begin from; None: the empty state.

    Returns:
        The answers in the order of the questions. They are the same each time.

    Raises:
        InputError: if the text is empty, or a question is invalid.
    """
    asked = [Question.of(question) for question in questions]
    steps = decision_steps(model, text, asked, state=state)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Decisions = end.value
            return list(found.answers)


def decision_steps(
    model: Model,
    text: str | Sequence[Message],
    questions: Sequence[Question],
    *,
    state: State | None = None,
) -> Generator[None, None, Decisions]:
    """Answer questions in steps, between which other work can be done; see `decide`."""
    if not 1 <= len(questions) <= MAX_QUESTIONS:
        raise InputError(f"there are {len(questions)} questions, expected 1 to {MAX_QUESTIONS}")
    template = template_for(model)
    letters = model.config.vocab_size == WORLD_VOCAB_SIZE
    ids = prompt_ids(model, _input_text(template, text), state)
    tokens = len(ids)
    for begin in range(0, len(ids), model.tokens_at_once):
        _, state = model.forward(ids[begin : begin + model.tokens_at_once], state)
        yield
    assert state is not None
    lead = reply_lead(model, template)
    answers: list[Answer] = []
    for begin in range(0, len(questions), ROWS):
        group = questions[begin : begin + ROWS]
        forms = [form_of(question, letters=letters) for question in group]
        joint = SEPARATOR if not isinstance(text, str) else "\n"
        asked = [_asked(model, template, joint, form, lead) for form in forms]
        tokens += sum(map(len, asked))
        after = read_rows(model, asked, state.rows([0] * len(group)))
        yield
        for number, (question, form) in enumerate(zip(group, forms, strict=True)):
            labels = [_label_ids(model, label, lead) for label in form.labels]
            logprobs = label_logprobs(model, after.rows([number]), labels)
            answers.append(_answer(question, logprobs))
            yield
    return Decisions(tuple(answers), tokens)


def label_logprobs(model: Model, state: State, labels: Sequence[Sequence[int]]) -> Tensor:
    """Return the logarithms (n,) of the probabilities of labels after a state of one row.

    Labels of one token need no call of the model.
    """
    assert state.logits is not None
    first = state.logits[0].double().log_softmax(-1)
    found = first[torch.tensor([ids[0] for ids in labels])].clone()
    longer = [number for number, ids in enumerate(labels) if len(ids) > 1]
    if longer:
        rows = [labels[number] for number in longer]
        width = max(map(len, rows)) - 1
        batch = torch.tensor([[*ids[:-1], *[0] * (width - len(ids) + 1)] for ids in rows])
        lengths = [len(ids) - 1 for ids in rows]
        logits, _ = model.forward(
            batch, state.rows([0] * len(rows)), lengths=lengths, all_logits=True
        )
        logprobs = logits.double().log_softmax(-1)
        for row, (number, ids) in enumerate(zip(longer, rows, strict=True)):
            places = torch.arange(len(ids) - 1)
            found[number] += logprobs[row, places, torch.tensor(ids[1:])].sum()
    return _without_longer(found, labels)


def _without_longer(logprobs: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """Subtract from each label the probability of those that continue it."""
    probabilities = logprobs.exp()
    result = probabilities.clone()
    for number, ids in enumerate(labels):
        longer = [
            other
            for other, more in enumerate(labels)
            if len(more) > len(ids) and list(more[: len(ids)]) == list(ids)
        ]
        nearest = [n for n in longer if not any(_begins(labels[m], labels[n]) for m in longer)]
        result[number] -= probabilities[nearest].sum()
    return result.clamp(min=0).log()


def _begins(short: Sequence[int], long: Sequence[int]) -> bool:
    """Return whether a label is a proper beginning of another one."""
    return len(short) < len(long) and list(long[: len(short)]) == list(short)


def _answer(question: Question, logprobs: Tensor) -> Answer:
    mass = float(logprobs.exp().sum())
    if mass <= 0:  # no label is possible: all are equally improbable
        count = len(question.options)
        return Answer(question, (1 / count,) * count, 0.0)
    return Answer(question, tuple(logprobs.softmax(-1).tolist()), min(1.0, mass))


def _input_text(template: Template, text: str | Sequence[Message]) -> str:
    """Return the text before the questions: a user's turn, or a conversation."""
    if isinstance(text, str):
        if not text.strip():
            raise InputError("the text is empty; give a text that the questions are about")
        return template.message(Message("user", text))
    if not text:
        raise InputError(
            "there are no messages; give the conversation that the questions are about"
        )
    return SEPARATOR.join(template.message(message) for message in text)


def _asked(model: Model, template: Template, joint: str, form: Form, lead: str) -> list[int]:
    """Return the ids of a question after the input.

    They are encoded separately, so that the state after the input does not depend on the question.
    """
    name = f"{template.name_of('user')} " if joint == SEPARATOR else ""
    end = f"{SEPARATOR}{template.name_of('assistant')}{lead}"
    return model.tokenizer.encode(f"{joint}{name}{form.text}{end}")


def _label_ids(model: Model, label: str, lead: str) -> list[int]:
    """Return the ids of a label as a reply begins with it: after a blank, or on a new line."""
    return model.tokenizer.encode(label if lead.endswith("\n") else f" {label}")


@cache
def reply_lead(model: Model, template: Template) -> str:
    """Return what precedes the answer of a model that was trained to think, else "".

    These models close their thoughts with a bracket and newlines. What they write there is found
    once, with greedy decoding.
    """
    if not has_leading_zero(model):
        return ""
    lead = Thinking.SKIPPED.assistant_prefix
    prompt = f"{template.message(Message('user', 'Hi'))}{SEPARATOR}{template.name_of('assistant')}"
    logits, state = model.forward(prompt_ids(model, prompt + lead, None))
    for _ in range(LEAD_TOKENS):
        token = int(logits.argmax())
        piece = model.tokenizer.decode([token])
        if piece.strip(">\n \t") or not piece:
            break
        lead += piece
        logits, state = model.forward([token], state)
    return lead
