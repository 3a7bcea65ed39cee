"""What a line comes to: a request of the user in, an outcome out."""

from dataclasses import dataclass

from wkv.chat.inline_options import Inline
from wkv.chat.reply import Reply


@dataclass(frozen=True)
class Request:
    """A message, or a command's argument.

    Attributes:
        argument: the text, without blanks around it.
        options: `-temp=` and `-top_p=` that stood in the line.
    """

    argument: str
    options: Inline


@dataclass(frozen=True)
class Notice:
    """Something to tell the user, of one or more lines."""

    text: str


@dataclass(frozen=True)
class Leave:
    """The user wants to leave."""


Outcome = Notice | Reply | Leave
