"""A conversation with a model, whose history is a recurrent state that is never read again.

States are values, so going back is free: `again`, `undo`, `reset` and `fork` only select the state
that the next turn continues from.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from wkv.chat import newline_rules
from wkv.chat.prompt_files import OpeningPrompt, with_single_newlines
from wkv.chat.reply import SLACK, ChatReply
from wkv.chat.settings import ChatSettings, default_settings
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled, Progress, prefill, prompt_ids
from wkv.inference.speculation import Speculation
from wkv.inference.stream import Stream, stream
from wkv.models.state import State
from wkv.prompting.presets import ends_at_blank_line
from wkv.prompting.template import (
    SEPARATOR,
    Template,
    Thinking,
    clean,
    template_for,
    unread_part,
)

MAX_UNDO = 16
"""Number of turns that can be undone; each of them needs the memory of one state."""

READ_REPLY = "I have read it."
"""The bot's reply to a document."""


@dataclass(frozen=True)
class Mark:
    """A position in a conversation.

    Attributes:
        state: the state at this position; None before anything was read.
        read_ahead: the text that the state has read after the last turn; see `unread_part`.
        ids: the tokens that the state has read, as far as they are known; drafts are found there.
    """

    state: State | None = None
    read_ahead: str = SEPARATOR
    ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChatEntry:
    """One turn in the history of a conversation.

    Attributes:
        kind: "turn", "system" or "document".
        text: the user's message, the system prompt, or the length of the document in characters.
        reply: the bot's reply, including its thoughts.
    """

    kind: str
    text: str
    reply: str = ""


@dataclass(frozen=True)
class Snapshot:
    """The immutable content of a conversation at one time.

    Attributes:
        template: the speakers.
        opening: the position that `reset` returns to.
        mark: the position after the last turn.
        entries: the turns since the opening.
    """

    template: Template
    opening: Mark = field(default_factory=Mark)
    mark: Mark = field(default_factory=Mark)
    entries: tuple[ChatEntry, ...] = ()


class TurnReply(ChatReply):
    """A reply to a message.

    Attributes:
        before: the conversation before the message.
        message: the message.
        is_deterministic: whether temperature is 0, so that another reply would be the same.
    """

    def __init__(
        self,
        model: Model,
        pieces: Stream,
        *,
        owner: "Conversation",
        settings: ChatSettings,
        prefilled: Prefilled,
        before: Snapshot,
        message: str,
    ) -> None:
        super().__init__(
            model,
            pieces,
            owner=owner,
            limit=settings.max_tokens,
            prefilled=prefilled,
            assistant_prefix=settings.thinking.assistant_prefix,
        )
        self.before = before
        self.message = message
        self.is_deterministic = settings.sampling.temperature == 0


class Conversation:
    """A conversation of one user with one model.

    Attributes:
        settings: the settings of the next replies; callers may replace them.
        speculation: drafts the tokens of replies; None decodes without drafts.
        now: the present content, a value.
        past: the contents before each of the last changes, the newest last.
    """

    def __init__(
        self, model: Model, settings: ChatSettings | None = None, template: Template | None = None
    ) -> None:
        self.settings = settings or default_settings(model)
        self.speculation: Speculation | None = None
        self.now = Snapshot(template or template_for(model))
        self.past: deque[Snapshot] = deque(maxlen=MAX_UNDO)
        self._model = model

    @property
    def state(self) -> State | None:
        """The state after the last complete turn; None before anything was read."""
        return self.now.mark.state

    @property
    def before_last_turn(self) -> Snapshot | None:
        """The conversation before the last message; None if there was no message."""
        entries = self.now.entries
        if not self.past or not entries or entries[-1].kind != "turn":
            return None
        before = self.past[-1]
        follows = before.opening is self.now.opening and len(before.entries) == len(entries) - 1
        return before if follows else None

    def reply(
        self, message: str, settings: ChatSettings | None = None, progress: Progress | None = None
    ) -> TurnReply:
        """Read a message and start the reply; when it has ended, pass it to `finish`.

        Raises:
            InputError: if the message is empty. The conversation is unchanged.
        """
        return self._reply(self.now, clean(message), settings or self.settings, progress)

    def again(
        self, settings: ChatSettings | None = None, progress: Progress | None = None
    ) -> TurnReply | None:
        """Start another reply to the last message; returns None if there was no message."""
        before = self.before_last_turn
        if before is None:
            return None
        message = self.now.entries[-1].text
        return self._reply(before, message, settings or self.settings, progress)

    def finish(self, reply: ChatReply) -> None:
        """Add a reply to the conversation; the next turn continues from the state after it."""
        assert isinstance(reply, TurnReply)
        text, read_ahead = reply.split()
        before = reply.before
        entry = ChatEntry("turn", reply.message, (reply.assistant_prefix + text).strip())
        done = reply.result
        read = reply.prefilled.ids[0] if reply.prefilled is not None else ()
        ids = (*before.mark.ids, *read, *done.token_ids)
        mark = Mark(done.state, read_ahead, ids)
        if not self.past or self.past[-1] is not before:
            self.past.append(before)
        self.now = replace(before, mark=mark, entries=(*before.entries, entry))

    def begin(self, prompt: OpeningPrompt, progress: Progress | None = None) -> None:
        """Start a new conversation with an opening prompt, which `reset` then returns to.

        Raises:
            InputError, TokenizerError: if it cannot be read. The conversation is unchanged.
        """
        opening = Mark()
        if prompt.text:
            ids = prompt_ids(self._model, prompt.text, None)
            ids = with_single_newlines(self._model.tokenizer, ids)
            opening = _mark(prefill(self._model, [ids], None, progress))
        self._go_to(Snapshot(prompt.template, opening, opening))

    def begin_from(self, state: State) -> None:
        """Start a new conversation from a state after which a turn can begin."""
        opening = Mark(state)
        self._go_to(Snapshot(self.now.template, opening, opening))

    def system(self, text: str, progress: Progress | None = None) -> None:
        """Start a new conversation with a system prompt, which `reset` then returns to.

        Raises:
            InputError: if the text is empty. The conversation is unchanged.
        """
        text = clean(text)
        template = self.now.template
        opening = _mark(prefill(self._model, [template.system(text)], None, progress))
        self._go_to(Snapshot(template, opening, opening, (ChatEntry("system", text),)))

    def read(self, document: str, progress: Progress | None = None) -> Prefilled:
        """Read a document as a turn of the user.

        Raises:
            InputError: if the document is empty. The conversation is unchanged.
            KeyboardInterrupt: passes through. The conversation is unchanged.
        """
        document = clean(document)
        text = self.now.template.exchange(document, READ_REPLY)
        rest = unread_part(text, self.now.mark.read_ahead)
        done = prefill(self._model, [rest], self.state, progress)
        entry = ChatEntry("document", f"{len(document)} characters", READ_REPLY)
        mark = _mark(done, self.now.mark.ids)
        after = replace(self.now, mark=mark, entries=(*self.now.entries, entry))
        self._go_to(after)
        return done

    def reset(self) -> None:
        """Return to the opening."""
        system = tuple(entry for entry in self.now.entries[:1] if entry.kind == "system")
        self._go_to(replace(self.now, mark=self.now.opening, entries=system))

    def undo(self) -> bool:
        """Undo the last turn, reset or opening; returns False if there is nothing to undo."""
        if not self.past:
            return False
        self.now = self.past.pop()
        return True

    def fork(self) -> "Conversation":
        """Return an independent copy of the conversation."""
        copy = Conversation(self._model, self.settings)
        copy.speculation = self.speculation
        copy.now, copy.past = self.now, self.past.copy()
        return copy

    def replace_by(self, other: "Conversation") -> None:
        """Take over the content of another conversation; `undo` leads back step by step."""
        self.past.append(self.now)
        self.past.extend(other.past)
        self.now, self.settings = other.now, other.settings

    def _go_to(self, snapshot: Snapshot) -> None:
        self.past.append(self.now)
        self.now = snapshot

    def _reply(
        self, before: Snapshot, message: str, settings: ChatSettings, progress: Progress | None
    ) -> TurnReply:
        """Read a message that follows `before`, and start the reply."""
        turn = before.template.turn(message, settings.thinking)
        turn = unread_part(turn, before.mark.read_ahead)
        prefilled = prefill(self._model, [turn], before.mark.state, progress)
        pieces = self._stream(prefilled, before, settings)
        return TurnReply(
            self._model,
            pieces,
            owner=self,
            settings=settings,
            prefilled=prefilled,
            before=before,
            message=message,
        )

    def _stream(self, prefilled: Prefilled, before: Snapshot, settings: ChatSettings) -> Stream:
        """Return the stream of a reply after its turn was read."""
        thinks = settings.thinking is not Thinking.PLAIN  # thoughts may contain blank lines
        is_short = ends_at_blank_line(self._model, settings.preset) and not thinks
        rules = None
        if settings.preset.has_newline_rules:
            rules = newline_rules.for_chat(self._model.tokenizer, prefilled.last_token)
        return stream(
            self._model,
            "",
            sampling=settings.sampling,
            max_tokens=settings.max_tokens + SLACK,
            stop=SEPARATOR if is_short else before.template.next_turn,
            state=prefilled.state,
            logits_processor=rules,
            speculate=self.speculation or "off",
            context=(*before.mark.ids, *prefilled.ids[0]),
        )


def _mark(done: Prefilled, before: tuple[int, ...] = ()) -> Mark:
    """Return the position after a text that was read, which follows the ids `before`."""
    return Mark(done.state, ids=(*before, *done.ids[0]))
