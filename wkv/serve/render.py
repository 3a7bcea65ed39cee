"""Render messages as ids, with the positions at which messages end, as `wkv chat` does.

    System: {text}

    User: {text}

    Assistant: {text}

Source: RWKV-LM, RWKV7-G1x-templates.txt; see `wkv.prompting.template`.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.prefill import prompt_ids
from wkv.models.state import State
from wkv.prompting.template import SEPARATOR, Message, Template, Thinking, left_to_read
from wkv.serve.reply_memory import Replies, Said


@dataclass(frozen=True)
class Start:
    """Where a conversation begins.

    Attributes:
        tenant: whose it is; replies and states of others are not known there.
        state: what was read before; None at the very beginning.
        ahead: what it has read beyond its last turn; see `left_to_read`.
    """

    tenant: str = ""
    state: State | None = None
    ahead: str = SEPARATOR


@dataclass(frozen=True)
class ChatPrompt:
    """What is read before a reply.

    Attributes:
        ids: all of it.
        message_boundaries: positions in `ids` where messages end.
        before: how many ids come before the last turn, which ends with the speaker's name.
        digest: SHA-256 of those.
        turn: the text of that turn, without an assistant prefix.
        assistant_prefix: what the reply begins with, written by us.
        ahead: what was read beyond the last turn; "" where a reply is begun.
    """

    ids: tuple[int, ...]
    message_boundaries: tuple[int, ...]
    before: int
    digest: bytes
    turn: str
    assistant_prefix: str
    ahead: str


def said(message: Message) -> str:
    """Return the text that identifies an assistant's message among others in the same place."""
    return f"{message.reasoning}\0{message.text}"


class Prompts:
    """Writes conversations down for a model.

    Attributes:
        template: the speakers.
        replies: what was said before.
    """

    def __init__(self, model: Model, template: Template, replies: Replies) -> None:
        self.template = template
        self.replies = replies
        self._model = model

    def reply_to(
        self,
        messages: Sequence[Message],
        start: Start,
        thinking: Thinking = Thinking.PLAIN,
        assistant_prefix: str | None = None,
    ) -> ChatPrompt:
        """The ids of a conversation, up to where the reply begins.

        A last message of the assistant is the beginning of the reply.

        Args:
            messages: at least one.
            start: what they follow.
            thinking: what the reply begins with, and words behind the user's last message.
            assistant_prefix: what the reply begins with instead.

        Raises:
            InputError: for no messages, or one without text where there must be some.
        """
        script = self._script(start, messages)
        assistant_prefix = (
            thinking.assistant_prefix if assistant_prefix is None else assistant_prefix
        )
        *earlier, last = messages
        for message, after in zip(earlier, messages[1:], strict=True):
            script.add(message, after.role)
        if last.role == "assistant":
            return script.going_on(last, assistant_prefix)
        script.add(last, "assistant", thinking.words)
        script.name("assistant")
        return script.finished(assistant_prefix)

    def read(self, messages: Sequence[Message], start: Start) -> ChatPrompt:
        """The ids of a conversation, up to the end of its last message.

        Raises:
            InputError: for no messages, or one without text where there must be some.
        """
        script = self._script(start, messages)
        for message, after in zip(messages, [*messages[1:], None], strict=True):
            script.add(message, after.role if after else None)
        return script.finished()

    def remember(
        self,
        start: Start,
        prompt: ChatPrompt,
        reply: Message,
        ids: Sequence[int],
        characters: int,
    ) -> None:
        """Remember a reply: the ids that were drawn after a prompt.

        `characters` of their text were told; what they hold beyond that must be the beginning of a
        next turn, or the state would know what the conversation does not.
        """
        text = self._model.tokenizer.decode(ids)
        ahead = text[len(text[:characters].rstrip("\n")) :]  # newlines at its end begin no line
        if not self._may_follow(ahead):
            return
        known = Said((*prompt.ids[prompt.before :], *ids), ahead)
        self.replies.remember(start.tenant, prompt.digest, prompt.turn, said(reply), known)

    def _may_follow(self, ahead: str) -> bool:
        """Whether this is a separator, or a part of one, or that and the beginning of a name."""
        name = ahead.lstrip("\n")
        newlines = len(ahead) - len(name)
        if not name:
            return newlines <= len(SEPARATOR)
        return newlines == len(SEPARATOR) and self.template.name_of("user").startswith(name)

    def _script(self, start: Start, messages: Sequence[Message]) -> "_Script":
        if not messages:
            raise InputError("there are no messages; give at least one")
        return _Script(self._model, self, start)


class _Script:
    """A conversation while it is written down."""

    def __init__(self, model: Model, prompts: Prompts, start: Start) -> None:
        self._model = model
        self._prompts = prompts
        self._start = start
        self._ids: list[int] = []
        self._digest = hashlib.sha256()  # of the ids; kept up, as each reply is looked for by it
        self._borders: list[int] = []
        self._turn = ""
        self._ahead = start.ahead

    def add(self, message: Message, follows: str | None, words: str = "") -> None:
        """Write a message that somebody's follows, with words behind a user's."""
        if message.role == "assistant":
            self._add_reply(message, follows)
            return
        text = self._prompts.template.message(message, words if message.role == "user" else "")
        self._turn += left_to_read(text, self._ahead)
        self._ahead = ""
        if message.role == "system":  # a border of its own: others may begin with it as well
            self._turn += SEPARATOR
            self._end_turn()
            self._ahead = SEPARATOR

    def name(self, role: str) -> None:
        """Write the name of who speaks next."""
        self._turn += left_to_read(self._prompts.template.name_of(role), self._ahead)
        self._ahead = ""

    def finished(self, assistant_prefix: str = "") -> ChatPrompt:
        """Everything rendered so far; an assistant prefix continues the last turn."""
        told = self._told(assistant_prefix)
        if self._turn + assistant_prefix:
            self._turn += assistant_prefix
            self._end_turn()
        return replace(told, ids=tuple(self._ids), message_boundaries=tuple(self._borders))

    def going_on(self, begun: Message, assistant_prefix: str) -> ChatPrompt:
        """Everything rendered so far and the begun reply, or an assistant prefix if it is empty."""
        self.name("assistant")
        if not begun.text.strip():
            return self.finished(assistant_prefix)
        assistant_prefix = f" {begun.text.lstrip()}"
        known = self._recall(begun)
        if known is None or known.ahead:
            return self.finished(assistant_prefix)
        # We said this, and were cut off: the same ids, which may end within a word.
        told = self._told(assistant_prefix)
        self._extend(known.ids)
        return replace(told, ids=tuple(self._ids), message_boundaries=tuple(self._borders))

    def _told(self, assistant_prefix: str) -> ChatPrompt:
        """What is known of the last turn before it is turned into ids."""
        digest = self._digest.digest()
        return ChatPrompt((), (), len(self._ids), digest, self._turn, assistant_prefix, self._ahead)

    def _add_reply(self, message: Message, follows: str | None) -> None:
        self.name("assistant")
        known = self._recall(message)
        begun = known.ahead.lstrip("\n") if known else ""
        if begun and follows not in (None, "user"):  # it has read the name of another
            known = None
        if known is None:
            self._end_turn()
            text = self._prompts.template.reply(message.text)
            self._extend(self._model.tokenizer.encode(f" {text}" if text else ""))
        else:
            self._extend(known.ids)
            self._ahead = known.ahead
        self._turn = ""
        self._borders.append(len(self._ids))

    def _recall(self, message: Message) -> Said | None:
        tenant, before = self._start.tenant, self._digest.digest()
        return self._prompts.replies.recall(tenant, before, self._turn, said(message))

    def _end_turn(self) -> None:
        """Turn what was written into ids; a document begins as the model was trained to begin."""
        if self._ids:
            self._extend(self._model.tokenizer.encode(self._turn))
        else:
            self._extend(prompt_ids(self._model, self._turn, self._start.state))
        self._borders.append(len(self._ids))
        self._turn = ""

    def _extend(self, ids: Sequence[int]) -> None:
        self._ids += ids
        self._digest.update(array("I", ids).tobytes())
