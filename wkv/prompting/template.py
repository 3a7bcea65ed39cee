"""Rendering of conversations as a model's prompt: speakers, separators, beginning of a reply.

    System: {text}

    User: {message}

    Assistant: {reply}

A blank line separates turns. So the message of a user contains no blank line, and in a reply no
speaker's name follows a blank line. The prompt ends with `Assistant:` without a space, because the
model writes the space. The chat, the server and the evaluation render with this module.
`chat_template.jinja` is the same format in Jinja, and a test compares both.
Source: RWKV-LM, RWKV7-G1x-templates.txt; ChatRWKV, chat.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.prompting.presets import is_raven

SEPARATOR = "\n\n"
"""The text that ends a turn."""

LINE_ENDS = re.compile(r"\r\n|[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
"""Line ends other than a newline, as in `str.splitlines`; a model may read any of them as one."""

SPECIAL_NAMES = re.compile(r"<\|(?=endoftext|padding|rwkv_tokenizer_)")
"""The beginning of a special token's name, which some tokenizers replace by the token's id."""


class Thinking(Enum):
    """Modes of thinking before an answer.

    Each mode has a label, words that follow the user's message, and the beginning of the reply. The
    last ">" of a tag is left for the model to write, as in its training.
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
        """Return the mode with a label.

        Raises:
            InputError: if no mode has this label.
        """
        for mode in cls:
            if mode.label == label:
                return mode
        raise InputError(
            f"the thinking mode {label!r} does not exist; expected one of "
            f"{', '.join(mode.label for mode in cls)}"
        )


EFFORTS = {
    None: Thinking.PLAIN,
    "none": Thinking.SKIPPED,
    "minimal": Thinking.A_BIT,
    "low": Thinking.A_BIT,
    "medium": Thinking.FREE,
    "high": Thinking.A_LOT,
    "xhigh": Thinking.A_LOT,
}
"""The thinking mode of each `reasoning_effort` of the OpenAI API."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: "system", "user" or "assistant". The result of a tool is a user's message, and a call
            is an assistant's message.
        text: the content.
        reasoning: an assistant's thoughts before the text. They are not rendered again.
    """

    role: str
    text: str
    reasoning: str = ""


@dataclass(frozen=True)
class Template:
    """The names of the two speakers and the text after a name, as in the model's training."""

    user: str = "User"
    bot: str = "Assistant"
    name_suffix: str = ":"

    def name_of(self, role: str) -> str:
        """Return the name of a speaker as it is written before a turn, such as "User:"."""
        names = {"system": "System", "user": self.user, "assistant": self.bot}
        return f"{names[role]}{self.name_suffix}"

    def message(self, message: Message, words: str = "") -> str:
        """Render one message, without the separator after it; `words` follow its text."""
        if message.role == "assistant":
            text = self.reply(message.text)
        else:
            text = (without_blank_lines(message.text) + words).strip()
        return f"{self.name_of(message.role)} {text}".rstrip(" ")

    def render(
        self,
        messages: Sequence[Message],
        thinking: Thinking = Thinking.PLAIN,
        *,
        assistant_prefix: str | None = None,
        add_reply: bool = True,
    ) -> str:
        """Render a conversation.

        Args:
            messages: in order.
            thinking: the beginning of the reply, and words after the user's last message.
            assistant_prefix: the beginning of the reply, instead of that of `thinking`.
            add_reply: end with the beginning of a reply, instead of with the last message.
        """
        turns = [
            self.message(message, thinking.words if message is messages[-1] else "")
            for message in messages
        ]
        if add_reply:
            prefix = thinking.assistant_prefix if assistant_prefix is None else assistant_prefix
            turns.append(f"{self.name_of('assistant')}{prefix}")
        return SEPARATOR.join(turns)

    def turn(self, message: str, thinking: Thinking = Thinking.PLAIN) -> str:
        """Render a user's message and the beginning of the reply."""
        return self.render([Message("user", message)], thinking)

    def exchange(self, message: str, reply: str) -> str:
        """Render a user's message and its reply, with the separator after it."""
        both = [Message("user", message), Message("assistant", reply)]
        return self.render(both, add_reply=False) + SEPARATOR

    def system(self, text: str) -> str:
        """Render the system message, with the separator after it."""
        return self.message(Message("system", text)) + SEPARATOR

    def reply(self, text: str) -> str:
        """Clean the text of an assistant: blank lines stay, except before a speaker's name."""
        return self.beginning_of_reply(text).strip()

    def beginning_of_reply(self, text: str) -> str:
        """Clean the beginning of an assistant's text, which keeps its blanks at the end.

        A blank line and a name would begin another turn.
        """
        names = "|".join(re.escape(self.name_of(role)) for role in ("system", "user", "assistant"))
        return re.sub(rf"\n(?:[^\S\n]*\n)+(?=[^\S\n]*(?:{names}))", "\n", normalized(text)).lstrip()

    @property
    def next_turn(self) -> str:
        """The beginning of the user's next turn, which ends a reply."""
        return f"{SEPARATOR}{self.name_of('user')}"


def instruction(text: str) -> str:
    """Render an instruction as in Raven's training. Source: ChatRWKV, chat.py, `+i`."""
    return (
        "\nBelow is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n# Instruction:\n{text}\n\n# Response:\n"
    )


def template_for(model: Model) -> Template:
    """Return a model's template: Bob and Alice for the 20B vocabulary, else User and Assistant."""
    return Template("Bob", "Alice") if is_raven(model) else Template()


def normalized(text: str) -> str:
    """Return a text with one spelling of line ends, and without names of special tokens.

    A space breaks such a name, so that every tokenizer reads it as plain text.
    """
    return SPECIAL_NAMES.sub("<| ", LINE_ENDS.sub("\n", text))


def without_blank_lines(text: str) -> str:
    """Remove blank lines and surrounding blanks from a text, so that it is one turn."""
    return "\n".join(line for line in normalized(text).split("\n") if line.strip()).strip()


def clean(message: str) -> str:
    """Return a user's message as one turn, without blank lines.

    Raises:
        InputError: if nothing is left.
    """
    cleaned = without_blank_lines(message)
    if not cleaned:
        raise InputError("the message is empty; type some text")
    return cleaned


def unread_part(turn: str, read_ahead: str) -> str:
    """Return the part of the separator and a turn that a state has not read yet.

    Args:
        turn: the next turn.
        read_ahead: the text that the state has read after the last reply: nothing if the reply was
            cut off, the separator, or the separator and the name of the next speaker.
    """
    name = read_ahead.lstrip("\n")
    if not name:
        return SEPARATOR[len(read_ahead) :] + turn
    if turn.startswith(name):
        return turn[len(name) :]
    return SEPARATOR + turn  # the model began a turn of another speaker, which stays in the state
