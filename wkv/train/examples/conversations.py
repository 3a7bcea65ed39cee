"""Recognize the fields of a record: a text, or a conversation in one of the usual forms.

{"text": T}                                          RWKV-LM; may contain User: and Assistant:
{"messages": [{"role", "content"}]}                  OpenAI, TRL, axolotl
{"conversations": [{"from", "value"}]}               ShareGPT
{"instruction", "input", "output"}                   Alpaca; also "system" and "history"
{"prompt", "completion"}, {"question", "answer"} …   completions
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wkv.errors import InputError
from wkv.train.examples.records import Record

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "tool": "user", "function": "user", "observation": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant", "bing": "assistant",
}  # fmt: skip
"""The speaker of each role that is in use; the result of a tool is written as a user's message."""

PROMPTS = ("prompt", "query", "question")
COMPLETIONS = ("completion", "response", "answer")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: "system", "user" or "assistant".
        text: the content.
        reasoning: an assistant's thoughts before the text.
        weight: the weight of its tokens in the loss, if it is an answer.
    """

    role: str
    text: str
    reasoning: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Example:
    """A document: a conversation, or a text.

    Attributes:
        where: the file and the line, for messages.
        turns: the conversation.
        text: the text, if it is not a conversation.
    """

    where: str
    turns: tuple[Turn, ...] = ()
    text: str = ""


def recognize(record: Record) -> str:
    """Return the name of a record's form: "messages", "sharegpt", "alpaca", "completion" or "text".

    Raises:
        InputError: if the record has none of the forms, or contains preferences.
    """
    fields = record.fields
    if {"chosen", "rejected"} & set(fields) or (
        "label" in fields and _first(fields, PROMPTS) and _first(fields, COMPLETIONS)
    ):
        raise InputError(
            f"{record.where}: these are preferences (chosen and rejected, or label), which wkv "
            "does not train on; use TRL on the model that `wkv convert --to hf` writes"
        )
    if isinstance(fields.get("messages"), list):
        return "messages"
    if isinstance(fields.get("conversations", fields.get("conversation")), list):
        return "sharegpt"
    if "instruction" in fields and "output" in fields:
        return "alpaca"
    if _first(fields, PROMPTS) and _first(fields, COMPLETIONS):
        return "completion"
    if "text" in fields:
        return "text"
    raise InputError(
        f"{record.where}: the fields are {', '.join(list(fields)[:8]) or 'none'}; expected text, "
        "messages, conversations, instruction and output, or prompt and completion"
    )


def example_of(record: Record, form: str, system: str = "") -> Example:
    """Return the document of a record.

    Args:
        record: the record.
        form: a result of `recognize`, or "auto".
        system: a system message for conversations that have none.

    Raises:
        InputError: if the record does not have the form, or an answer is empty.
    """
    form = recognize(record) if form == "auto" else form
    readers: dict[str, Callable[[Record], list[Turn]]] = {
        "messages": _messages,
        "sharegpt": _messages,
        "alpaca": _alpaca,
        "completion": _completion,
    }
    if form == "text":
        return Example(record.where, text=_text(record, "text"))
    if form not in readers:
        raise InputError(
            f"the format {form!r} is unknown; expected auto, text, {', '.join(readers)}"
        )
    turns = readers[form](record)
    if system and turns[0].role != "system":
        turns.insert(0, Turn("system", system))
    return Example(record.where, checked(record.where, turns))


def checked(where: str, turns: list[Turn]) -> tuple[Turn, ...]:
    """Return the turns up to the last answer, after checking that each answer has a text.

    Raises:
        InputError: if an answer is empty, or there is none.
    """
    while turns and turns[-1].role != "assistant":
        turns = turns[:-1]
    if not turns:
        raise InputError(
            f"{where}: the conversation has no answer of the assistant; add one, or remove it"
        )
    for turn in turns:
        if not turn.text.strip():
            raise InputError(
                f"{where}: a message of the {turn.role} is empty; a model that learns it would "
                "stay silent. Write a text, or remove the conversation"
            )
    return tuple(turns)


def _messages(record: Record) -> list[Turn]:
    """Return the turns of messages in OpenAI's or ShareGPT's form."""
    fields = record.fields
    found = fields.get("messages", fields.get("conversations", fields.get("conversation")))
    if not isinstance(found, list):
        raise InputError(f"{record.where}: there is no list of messages; check --format")
    turns = []
    for number, message in enumerate(found, 1):
        where = f"{record.where}, message {number}"
        if not isinstance(message, dict):
            raise InputError(f"{where}: found {str(message)[:40]!r}, expected an object")
        role = message.get("role", message.get("from"))
        if role not in ROLES:
            raise InputError(
                f"{where}: the role is {str(role)[:40]!r}, expected system, user or assistant "
                "(human and gpt in ShareGPT's form)"
            )
        reasoning = message.get("reasoning_content") or ""
        weight = message.get("weight", 1.0)
        if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise InputError(f"{where}: the weight is {weight!r}, expected a number from 0")
        text = _content(where, message.get("content", message.get("value")))
        turns.append(Turn(ROLES[role], text, str(reasoning), float(weight)))
    return turns


def _content(where: str, content: Any) -> str:
    """Return the text of a message; a list of parts is joined."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    if not isinstance(content, str):
        raise InputError(
            f"{where}: the content is {str(content)[:40]!r}, expected a text (RWKV reads no images)"
        )
    return content


def _alpaca(record: Record) -> list[Turn]:
    """Return the turns of an instruction with input, output, system and history."""
    fields = record.fields
    turns = [Turn("system", str(fields["system"]))] if fields.get("system") else []
    for pair in fields.get("history") or []:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise InputError(f"{record.where}: history has {pair!r}, expected pairs of texts")
        turns += [Turn("user", str(pair[0])), Turn("assistant", str(pair[1]))]
    question = _text(record, "instruction")
    if fields.get("input"):
        question += "\n" + str(fields["input"])
    return [*turns, Turn("user", question), Turn("assistant", _text(record, "output"))]


def _completion(record: Record) -> list[Turn]:
    """Return the turns of a prompt and its completion, which may be messages themselves."""
    prompt, completion = _first(record.fields, PROMPTS), _first(record.fields, COMPLETIONS)
    if prompt is None or completion is None:
        raise InputError(f"{record.where}: there is no prompt with a completion; check --format")
    asked, said = record.fields[prompt], record.fields[completion]
    if isinstance(asked, list) and isinstance(said, list):
        return _messages(Record(record.where, {"messages": [*asked, *said]}))
    return [Turn("user", _text(record, prompt)), Turn("assistant", _text(record, completion))]


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in fields), None)


def _text(record: Record, name: str) -> str:
    value = record.fields.get(name)
    if not isinstance(value, str):
        raise InputError(f"{record.where}: {name} is {str(value)[:40]!r}, expected a text")
    return value
