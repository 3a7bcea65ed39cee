"""Rendering of messages as token ids, with the positions of the message boundaries.

    System: {text}

    User: {text}

    Assistant: {text}

The ids of the server's own replies are remembered. When a reply comes back in a conversation's
history, the same ids are used again, so that the cached state after them is found and nothing is
read twice. Source: RWKV-LM, RWKV7-G1x-templates.txt; see `wkv.prompting.template`.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wkv.batching.request import owner_of
from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.prefill import prompt_ids
from wkv.models.state import State
from wkv.prompting.template import SEPARATOR, Message, Template, Thinking, unread_part
from wkv.serve.key_value_store import KeyValueStore

SAMPLE = "A quick brown fox jumps over lazy dogs. 0123456789 \n\nUser: 你好，世界！ {}[]()=_<>/"
"""A text whose ids identify a vocabulary: others encode it differently."""


@dataclass(frozen=True)
class ConversationStart:
    """The beginning of a conversation.

    Attributes:
        tenant: the digest of the client's API key, or "" without keys; with `state`, what
            identifies it and its adapter follows after a slash. Replies and cached states of other
            tenants are not used.
        state: the state that the conversation continues; None for a new conversation.
        read_ahead: the text that the state has read after its last message: a separator, perhaps
            with the next speaker's name; see `unread_part`.
        model: the name of the model or variant that was asked for.
    """

    tenant: str = ""
    state: State | None = None
    read_ahead: str = SEPARATOR
    model: str = ""


@dataclass(frozen=True)
class ChatPrompt:
    """A rendered prompt.

    Attributes:
        ids: the whole prompt.
        message_boundaries: positions in `ids` at which messages end.
        history_length: number of ids before the last turn, which ends with the assistant's name.
        history_digest: SHA-256 of these ids.
        turn: the text of the last turn, without an assistant prefix.
        assistant_prefix: the beginning of the reply.
        read_ahead: as in `ConversationStart`, after this prompt; "" if a reply begins there.
    """

    ids: tuple[int, ...]
    message_boundaries: tuple[int, ...]
    history_length: int
    history_digest: bytes
    turn: str
    assistant_prefix: str
    read_ahead: str


@dataclass(frozen=True)
class RememberedReply:
    """A reply as the model has read it.

    Attributes:
        ids: those of the turn before it, with the assistant's name, and of the reply.
        read_ahead: as in `ConversationStart`, after these ids.
    """

    ids: tuple[int, ...]
    read_ahead: str


class ReplyMemory:
    """The replies of a model, found by the conversation before them."""

    def __init__(self, values: KeyValueStore, model: str) -> None:
        """Store the replies in `values`; `model` is the result of `vocabulary_identity`."""
        self._values = values
        self._model = model

    def remember(
        self, start: ConversationStart, prompt: ChatPrompt, message: Message, reply: RememberedReply
    ) -> None:
        """Remember the ids of a message that followed a prompt."""
        key = self._key(start.tenant, prompt.history_digest, prompt.turn, message)
        value = {"ids": reply.ids, "ahead": reply.read_ahead}
        self._values.put(key, value, owner=owner_of(start.tenant))

    def recall(
        self, tenant: str, history_digest: bytes, turn: str, message: Message
    ) -> RememberedReply | None:
        """Return the remembered form of a message after a history and a turn, or None."""
        value = self._values.get(self._key(tenant, history_digest, turn, message))
        return value and RememberedReply(tuple(value["ids"]), value["ahead"])

    def _key(self, tenant: str, history_digest: bytes, turn: str, message: Message) -> str:
        digest = hashlib.sha256(history_digest)
        for text in (self._model, tenant, turn, f"{message.reasoning}\0{message.text}"):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def vocabulary_identity(model: Model) -> str:
    """Return a text that identifies a model and its tokenizer, whose ids others cannot use."""
    tokenizer = model.tokenizer
    sample = tokenizer.encode(SAMPLE)
    return f"{model.identity} {tokenizer.name} {tokenizer.vocab_size} {sample}"


class PromptRenderer:
    """Renders conversations for a model.

    Attributes:
        template: the names of the speakers.
        replies: the remembered replies.
    """

    def __init__(self, model: Model, template: Template, replies: ReplyMemory) -> None:
        self.template = template
        self.replies = replies
        self._model = model

    def render_prompt(
        self,
        messages: Sequence[Message],
        start: ConversationStart,
        thinking: Thinking = Thinking.PLAIN,
        assistant_prefix: str | None = None,
    ) -> ChatPrompt:
        """Render a conversation up to the beginning of a reply.

        If the last message is an assistant's, the reply continues it.

        Args:
            messages: at least one.
            start: the beginning of the conversation.
            thinking: the beginning of the reply, and words after the user's last message.
            assistant_prefix: the beginning of the reply, instead of that of `thinking`.

        Raises:
            InputError: if there are no messages.
        """
        builder = self._builder(start, messages)
        prefix = thinking.assistant_prefix if assistant_prefix is None else assistant_prefix
        *earlier, last = messages
        for message, following in zip(earlier, messages[1:], strict=True):
            builder.add(message, following.role)
        if last.role == "assistant":
            return builder.continue_reply(last, prefix)
        builder.add(last, "assistant", thinking.words)
        builder.add_name("assistant")
        return builder.finish(prefix)

    def render_messages(self, messages: Sequence[Message], start: ConversationStart) -> ChatPrompt:
        """Render a conversation up to the end of its last message.

        Raises:
            InputError: if there are no messages.
        """
        builder = self._builder(start, messages)
        for message, following in zip(messages, [*messages[1:], None], strict=True):
            builder.add(message, following.role if following else None)
        return builder.finish()

    def remember(
        self,
        start: ConversationStart,
        prompt: ChatPrompt,
        message: Message,
        ids: Sequence[int],
        characters: int,
    ) -> None:
        """Remember the ids that were sampled after a prompt and became a message.

        The client received `characters` of their text. The text after that must be the beginning
        of a next turn, because the state must not know more than the conversation.
        """
        text = self._model.tokenizer.decode(ids)
        read_ahead = text[len(text[:characters].rstrip("\n")) :]
        if self._begins_turn(read_ahead):
            reply = RememberedReply((*prompt.ids[prompt.history_length :], *ids), read_ahead)
            self.replies.remember(start, prompt, message, reply)

    def _begins_turn(self, text: str) -> bool:
        """Return whether a text is the beginning of a separator and the user's name."""
        name = text.lstrip("\n")
        newlines = len(text) - len(name)
        if not name:
            return newlines <= len(SEPARATOR)
        return newlines == len(SEPARATOR) and self.template.name_of("user").startswith(name)

    def _builder(self, start: ConversationStart, messages: Sequence[Message]) -> "_PromptBuilder":
        if not messages:
            raise InputError("there are no messages; give at least one")
        return _PromptBuilder(self._model, self, start)


class _PromptBuilder:
    """A prompt to which messages are added.

    Text is collected in `_turn` and encoded when the turn ends.
    """

    def __init__(self, model: Model, renderer: PromptRenderer, start: ConversationStart) -> None:
        self._model = model
        self._renderer = renderer
        self._start = start
        self._ids: list[int] = []
        self._digest = hashlib.sha256()  # of all ids; updated, because each reply needs it
        self._boundaries: list[int] = []
        self._turn = ""
        self._read_ahead = start.read_ahead

    def add(self, message: Message, next_role: str | None, words: str = "") -> None:
        """Add a message; `words` follow the text of a user's message."""
        if message.role == "assistant":
            self._add_reply(message, next_role)
            return
        text = self._renderer.template.message(message, words if message.role == "user" else "")
        self._turn += unread_part(text, self._read_ahead)
        self._read_ahead = ""
        if message.role == "system":  # other conversations may begin with the same message
            self._turn += SEPARATOR
            self._end_turn()
            self._read_ahead = SEPARATOR

    def add_name(self, role: str) -> None:
        """Add the name of the next speaker."""
        self._turn += unread_part(self._renderer.template.name_of(role), self._read_ahead)
        self._read_ahead = ""

    def finish(self, assistant_prefix: str = "") -> ChatPrompt:
        """Return the prompt; an assistant prefix is added to the last turn."""
        prompt = self._unfinished(assistant_prefix)
        if self._turn + assistant_prefix:
            self._turn += assistant_prefix
            self._end_turn()
        return self._with_ids(prompt)

    def continue_reply(self, beginning: Message, assistant_prefix: str) -> ChatPrompt:
        """Return the prompt with the beginning of a reply, or a prefix if that is empty."""
        self.add_name("assistant")
        begun = self._renderer.template.beginning_of_reply(beginning.text)
        if not begun:
            return self.finish(assistant_prefix)
        assistant_prefix = f" {begun}"
        known = self._recall(beginning)
        if known is None or known.read_ahead:
            return self.finish(assistant_prefix)
        # The server wrote this text and was cut off: the same ids may end within a word.
        prompt = self._unfinished(assistant_prefix)
        self._extend(known.ids)
        return self._with_ids(prompt)

    def _unfinished(self, assistant_prefix: str) -> ChatPrompt:
        """Return a prompt without ids that describes the last turn."""
        return ChatPrompt(
            ids=(),
            message_boundaries=(),
            history_length=len(self._ids),
            history_digest=self._digest.digest(),
            turn=self._turn,
            assistant_prefix=assistant_prefix,
            read_ahead=self._read_ahead,
        )

    def _with_ids(self, prompt: ChatPrompt) -> ChatPrompt:
        return replace(prompt, ids=tuple(self._ids), message_boundaries=tuple(self._boundaries))

    def _add_reply(self, message: Message, next_role: str | None) -> None:
        self.add_name("assistant")
        known = self._recall(message)
        has_name = known is not None and known.read_ahead.lstrip("\n") != ""
        if known is None or (has_name and next_role not in (None, "user")):
            # The reply is unknown, or its ids include the user's name and another speaker follows.
            self._end_turn()
            text = self._renderer.template.reply(message.text)
            self._extend(self._model.tokenizer.encode(f" {text}" if text else ""))
        else:
            self._extend(known.ids)
            self._read_ahead = known.read_ahead
        self._turn = ""
        self._boundaries.append(len(self._ids))

    def _recall(self, message: Message) -> RememberedReply | None:
        replies, digest = self._renderer.replies, self._digest.digest()
        return replies.recall(self._start.tenant, digest, self._turn, message)

    def _end_turn(self) -> None:
        """Encode the text of the turn. A new document begins with the model's leading token."""
        if self._ids:
            self._extend(self._model.tokenizer.encode(self._turn))
        else:
            self._extend(prompt_ids(self._model, self._turn, self._start.state))
        self._boundaries.append(len(self._ids))
        self._turn = ""

    def _extend(self, ids: Sequence[int]) -> None:
        self._ids += ids
        self._digest.update(array("I", ids).tobytes())
