"""Write a document as text, in pieces with a weight in the loss, with the template of a model.

Only answers are learned: everything after "Assistant:" up to and including the blank line that ends
the turn. An exchange is everything up to the end of one answer; long conversations are divided only
between exchanges.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wkv.prompting.template import SEPARATOR, Message, Template, Thinking
from wkv.prompting.thinking import CLOSE, OPEN
from wkv.train.examples.conversations import Example, Turn


@dataclass(frozen=True)
class Piece:
    """A part of a document.

    Attributes:
        text: the text.
        weight: the weight of its tokens in the loss.
        is_answer: whether it is an answer of the assistant.
    """

    text: str
    weight: float
    is_answer: bool = False


Exchange = tuple[Piece, ...]


@dataclass(frozen=True)
class Style:
    """The style in which documents are written.

    Attributes:
        template: the template of the model.
        prompt_weight: the weight of everything that is not an answer.
        skips_thinking: whether answers without thoughts begin with empty ones, as a chat that
            skips thinking sends them.
    """

    template: Template
    prompt_weight: float = 0.0
    skips_thinking: bool = False


def exchanges_of(example: Example, style: Style) -> tuple[Exchange, ...]:
    """Return a document in exchanges; a text without answers is one piece that is learned."""
    if example.turns:
        return _conversation(example.turns, style)
    return _answers_in(example.text, style)


def _conversation(turns: Sequence[Turn], style: Style) -> tuple[Exchange, ...]:
    exchanges: list[Exchange] = []
    pieces: list[Piece] = []
    for turn in turns:
        if turn.role != "assistant":
            text = style.template.message(Message(turn.role, turn.text)) + SEPARATOR
            pieces.append(Piece(text, style.prompt_weight))
            continue
        prefix, answer = _answer(turn, style)
        name = style.template.name_of("assistant")
        pieces.append(Piece(name + prefix, style.prompt_weight))
        pieces.append(Piece(answer + SEPARATOR, turn.weight, is_answer=turn.weight > 0))
        exchanges.append(tuple(pieces))
        pieces = []
    return tuple(exchanges)


def _answer(turn: Turn, style: Style) -> tuple[str, str]:
    """Return the beginning of a reply that a chat sends, and the rest, which is learned."""
    text = style.template.reply(turn.text)
    if turn.reasoning.strip():
        return Thinking.FREE.assistant_prefix, f">{turn.reasoning.strip()}\n{CLOSE}\n{text}"
    if style.skips_thinking and not text.startswith(OPEN):
        return Thinking.SKIPPED.assistant_prefix, f">\n{text}"
    return "", f" {text}"


def _answers_in(text: str, style: Style) -> tuple[Exchange, ...]:
    """Find the answers in a text that was written with the template."""
    user, bot, system = (
        re.escape(style.template.name_of(role)) for role in ("user", "assistant", "system")
    )
    answer = re.compile(rf"(?:\A|(?<=\n\n)){bot}(.*?)(?:\n\n+(?={user}|{system}|{bot})|\Z)", re.S)
    exchanges: list[Exchange] = []
    end = 0
    for match in answer.finditer(text):
        said = match[1].rstrip()
        if said.strip():
            before = Piece(text[end : match.start(1)], style.prompt_weight)
            exchanges.append((before, Piece(said + SEPARATOR, 1.0, is_answer=True)))
            end = match.end()
    return tuple(exchanges) or ((Piece(text, 1.0),),)
