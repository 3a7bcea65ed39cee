"""A conversation: turns in, replies out. What was said is kept as states and never read again.

A state is a value, so going back costs nothing: `again`, `undo`, `reset` and `fork` only choose
which one the next turn goes on from.
"""

from collections import deque
from dataclasses import dataclass, field, replace

from wkv.chat import newline_rules
from wkv.chat.prompt_files import Prompt, with_single_newlines
from wkv.chat.reply import SLACK, Reply
from wkv.chat.settings import Settings, default_settings
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled, Progress, prefill, prompt_ids
from wkv.inference.stream import Stream, stream
from wkv.models.state import State
from wkv.prompting.presets import ends_at_blank_line
from wkv.prompting.template import (
    SEPARATOR,
    Template,
    Thinking,
    clean,
    left_to_read,
    template_for,
)

MOST_UNDONE = 16
"""Turns that can be undone; each keeps a state."""

READ_IT = "I have read it."
"""What the bot says to a document."""


@dataclass(frozen=True)
class Mark:
    """A place in a text that was read.

    Attributes:
        state: there; None at the very beginning.
        ahead: what it has read beyond the last turn; see `left_to_read`.
    """

    state: State | None = None
    ahead: str = SEPARATOR


@dataclass(frozen=True)
class Entry:
    """What was said in one turn.

    Attributes:
        kind: "turn", "system" or "document".
        text: the user's message, the system's, or the document's length in characters.
        reply: the bot's, with its thoughts.
    """

    kind: str
    text: str
    reply: str = ""


@dataclass(frozen=True)
class Moment:
    """All that a conversation is at one time.

    Attributes:
        template: the speakers.
        opening: where it begins, and where `reset` returns to.
        mark: where it stands.
        entries: what was said since the opening.
    """

    template: Template
    opening: Mark = field(default_factory=Mark)
    mark: Mark = field(default_factory=Mark)
    entries: tuple[Entry, ...] = ()


class TurnReply(Reply):
    """A reply to a message.

    Attributes:
        before: the conversation without it.
        message: what it answers.
        is_exact: it is drawn without chance.
    """

    def __init__(
        self,
        model: Model,
        pieces: Stream,
        *,
        owner: "Conversation",
        settings: Settings,
        reading: Prefilled,
        before: Moment,
        message: str,
    ) -> None:
        super().__init__(
            model,
            pieces,
            owner=owner,
            limit=settings.max_tokens,
            reading=reading,
            assistant_prefix=settings.thinking.assistant_prefix,
        )
        self.before = before
        self.message = message
        self.is_exact = settings.sampling.temperature == 0


class Conversation:
    """Turns with one model.

    Attributes:
        settings: of the replies to come; yours to replace.
        now: what the conversation is; a value.
        past: what it was before each of the last turns, the newest last.
    """

    def __init__(
        self, model: Model, settings: Settings | None = None, template: Template | None = None
    ) -> None:
        self.settings = settings or default_settings(model)
        self.now = Moment(template or template_for(model))
        self.past: deque[Moment] = deque(maxlen=MOST_UNDONE)
        self._model = model

    @property
    def state(self) -> State | None:
        """The state after the last whole turn; None before anything was read."""
        return self.now.mark.state

    @property
    def before_last_turn(self) -> Moment | None:
        """What the conversation was before the last message; None if there was none."""
        entries = self.now.entries
        if not self.past or not entries or entries[-1].kind != "turn":
            return None
        before = self.past[-1]
        follows = before.opening is self.now.opening and len(before.entries) == len(entries) - 1
        return before if follows else None

    def reply(
        self, message: str, settings: Settings | None = None, progress: Progress | None = None
    ) -> TurnReply:
        """Read a message and begin the reply; when it has ended, call `finish` with it.

        Raises:
            InputError: for an empty message. The conversation is as before.
        """
        return self._reply(self.now, clean(message), settings or self.settings, progress)

    def again(
        self, settings: Settings | None = None, progress: Progress | None = None
    ) -> TurnReply | None:
        """Begin another reply to the last message; None if there was no message."""
        before = self.before_last_turn
        if before is None:
            return None
        message = self.now.entries[-1].text
        return self._reply(before, message, settings or self.settings, progress)

    def finish(self, reply: Reply) -> None:
        """Keep what a reply left behind; the next turn goes on from it."""
        assert isinstance(reply, TurnReply)
        said, ahead = reply.split()
        before = reply.before
        entry = Entry("turn", reply.message, (reply.assistant_prefix + said).strip())
        mark = Mark(reply.result.state, ahead)
        if not self.past or self.past[-1] is not before:
            self.past.append(before)
        self.now = replace(before, mark=mark, entries=(*before.entries, entry))

    def begin(self, prompt: Prompt, progress: Progress | None = None) -> None:
        """Start anew from an opening prompt, which `reset` then returns to.

        Raises:
            InputError, TokenizerError: if it cannot be read. The conversation is as before.
        """
        opening = Mark()
        if prompt.text:
            ids = prompt_ids(self._model, prompt.text, None)
            ids = with_single_newlines(self._model.tokenizer, ids)
            opening = Mark(prefill(self._model, [ids], None, progress).state)
        self._go_to(Moment(prompt.template, opening, opening))

    def begin_from(self, state: State) -> None:
        """Start anew from a state that ends where a turn may begin."""
        opening = Mark(state)
        self._go_to(Moment(self.now.template, opening, opening))

    def system(self, text: str, progress: Progress | None = None) -> None:
        """Start anew with a system turn, which `reset` then returns to.

        Raises:
            InputError: if the text is empty. The conversation is as before.
        """
        text = clean(text)
        template = self.now.template
        opening = Mark(prefill(self._model, [template.system(text)], None, progress).state)
        self._go_to(Moment(template, opening, opening, (Entry("system", text),)))

    def read(self, document: str, progress: Progress | None = None) -> Prefilled:
        """Take a document into the state, as a user's turn.

        Raises:
            InputError: if it is empty. KeyboardInterrupt passes. The conversation is as before.
        """
        document = clean(document)
        text = self.now.template.exchange(document, READ_IT)
        rest = left_to_read(text, self.now.mark.ahead)
        done = prefill(self._model, [rest], self.state, progress)
        entry = Entry("document", f"{len(document)} characters", READ_IT)
        moment = replace(self.now, mark=Mark(done.state), entries=(*self.now.entries, entry))
        self._go_to(moment)
        return done

    def reset(self) -> None:
        """Return to the opening."""
        system = tuple(entry for entry in self.now.entries[:1] if entry.kind == "system")
        self._go_to(replace(self.now, mark=self.now.opening, entries=system))

    def undo(self) -> bool:
        """Take back the last turn, reset or opening; False if there is none to take back."""
        if not self.past:
            return False
        self.now = self.past.pop()
        return True

    def fork(self) -> "Conversation":
        """A second conversation with the same past."""
        copy = Conversation(self._model, self.settings)
        copy.now, copy.past = self.now, self.past.copy()
        return copy

    def replace_by(self, other: "Conversation") -> None:
        """Become another conversation; `undo` leads back at last."""
        self.past.append(self.now)
        self.past.extend(other.past)
        self.now, self.settings = other.now, other.settings

    def _go_to(self, moment: Moment) -> None:
        self.past.append(self.now)
        self.now = moment

    def _reply(
        self, before: Moment, message: str, settings: Settings, progress: Progress | None
    ) -> TurnReply:
        """Read a message after a moment, and begin the reply."""
        turn = before.template.turn(message, settings.thinking)
        turn = left_to_read(turn, before.mark.ahead)
        reading = prefill(self._model, [turn], before.mark.state, progress)
        pieces = self._stream(reading, before.template, settings)
        return TurnReply(
            self._model,
            pieces,
            owner=self,
            settings=settings,
            reading=reading,
            before=before,
            message=message,
        )

    def _stream(self, reading: Prefilled, template: Template, settings: Settings) -> Stream:
        """The tokens of a reply, after its turn was read."""
        thinks = settings.thinking is not Thinking.PLAIN  # thoughts have paragraphs
        short = ends_at_blank_line(self._model, settings.preset) and not thinks
        scheduled = settings.preset.scheduled
        tokenizer = self._model.tokenizer
        return stream(
            self._model,
            "",
            sampling=settings.sampling,
            max_tokens=settings.max_tokens + SLACK,
            stop=SEPARATOR if short else template.next_turn,
            state=reading.state,
            logits_processor=newline_rules.for_chat(tokenizer, reading.last_token)
            if scheduled
            else None,
        )
