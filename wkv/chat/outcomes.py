"""Types for one line of input: the request of the user, and the possible outcomes."""

from dataclasses import dataclass

from wkv.chat.inline_options import InlineOptions
from wkv.chat.reply import ChatReply


@dataclass(frozen=True)
class CommandRequest:
    """A message, or the argument of a command.

    Attributes:
        argument: the text without surrounding blanks.
        options: the options `-temp=` and `-top_p=` of the line.
    """

    argument: str
    options: InlineOptions


@dataclass(frozen=True)
class Notice:
    """A text of one or more lines that is displayed to the user."""

    text: str


@dataclass(frozen=True)
class Leave:
    """A request to leave the chat."""


Outcome = Notice | ChatReply | Leave
