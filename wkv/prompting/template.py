"""How turns are written for a model: the names of the speakers, and what stands between turns.

    User: {message}

    Assistant: {reply}

Turns are separated by a blank line, no turn holds one, and no blank follows the last colon: a reply
begins with its own. Source: RWKV-LM, RWKV7-G1x-templates.txt; ChatRWKV, chat.py.
"""

import re
from dataclasses import dataclass
from enum import Enum

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.prompting.presets import is_raven

SEPARATOR = "\n\n"
"""What ends a turn."""


class Thinking(Enum):
    """What a reply begins with, and the words after the message that say how much to think.

    The last ">" is left for the model to write, as it was trained.
    """

    PLAIN = ("plain", "", "")
    SKIPPED = ("nothink", "", " <think>\n</think")
    FREE = ("think", "", " <think")
    SOME = ("think some", " (think)", " <think")
    A_BIT = ("think a bit", " (think a bit)", " <think")
    A_LOT = ("think a lot", " (think a lot)", " <think")

    def __init__(self, label: str, words: str, assistant_prefix: str) -> None:
        self.label = label
        self.words = words
        self.assistant_prefix = assistant_prefix

    @classmethod
    def of(cls, label: str) -> "Thinking":
        """The mode of a label.

        Raises:
            InputError: if there is none.
        """
        for mode in cls:
            if mode.label == label:
                return mode
        raise InputError(
            f"{label!r} is no way of thinking; expected one of "
            f"{', '.join(mode.label for mode in cls)}"
        )


@dataclass(frozen=True)
class Template:
    """The names of the two speakers and what follows a name, as a model was trained on them."""

    user: str = "User"
    bot: str = "Assistant"
    interface: str = ":"

    def turn(self, message: str, thinking: Thinking = Thinking.PLAIN) -> str:
        """A user's turn and the beginning of the reply."""
        return (
            f"{self.user}{self.interface} {message}{thinking.words}{SEPARATOR}"
            f"{self.bot}{self.interface}{thinking.assistant_prefix}"
        )

    def exchange(self, message: str, reply: str) -> str:
        """A whole turn of both speakers."""
        return f"{self.turn(message)} {reply}{SEPARATOR}"

    def system(self, text: str) -> str:
        """The turn that stands before all others and says how to behave."""
        return f"System{self.interface} {text}{SEPARATOR}"

    @property
    def next_turn(self) -> str:
        """Where the user's next turn begins: a reply goes no further."""
        return f"{SEPARATOR}{self.user}{self.interface}"


def instruction(text: str) -> str:
    """The instruction form that Raven was trained on. Source: ChatRWKV, chat.py, `+i`."""
    return (
        "\nBelow is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n# Instruction:\n{text}\n\n# Response:\n"
    )


def template_for(model: Model) -> Template:
    """The speakers of Raven for models with the 20B vocabulary, of World for all others."""
    return Template("Bob", "Alice") if is_raven(model) else Template()


def clean(message: str) -> str:
    """A message that holds no turn's end: blank lines go, and blanks at both ends.

    Raises:
        InputError: if nothing is left.
    """
    cleaned = re.sub(r"\n{2,}", "\n", message.replace("\r\n", "\n")).strip()
    if not cleaned:
        raise InputError("the message is empty; type some text")
    return cleaned


def left_to_read(turn: str, ahead: str) -> str:
    """What of the separator and a turn remains to be read after `ahead`.

    `ahead` is what a state has read beyond the last reply: nothing if the reply was cut off, the
    separator, or even the name of the next speaker. Newlines are not counted twice.
    """
    name = ahead.lstrip("\n")
    if not name:
        return SEPARATOR[len(ahead) :] + turn
    if turn.startswith(name):
        return turn[len(name) :]
    return SEPARATOR + turn  # something else was begun; it is left as a turn of its own
