"""The session of one user: conversations in memory, free text, saved chats and statistics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from wkv.chat.conversation import Conversation, TurnReply
from wkv.chat.free_text import FreeText
from wkv.chat.inline_options import InlineOptions
from wkv.chat.language import Language, language_named
from wkv.chat.reply import ChatReply
from wkv.chat.saved_chats import ChatStore, checked_name
from wkv.chat.settings import ChatSettings
from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled, Progress
from wkv.inference.sequence import DraftCounts

FIRST_NAME = "main"
"""Name of the first conversation."""

SEED_LIMIT = 2**63


@dataclass
class SessionCounts:
    """Tokens and seconds that a session has spent on prefill and decode."""

    tokens_read: int = 0
    tokens_written: int = 0
    seconds_read: float = 0.0
    seconds_written: float = 0.0
    replies: int = 0
    drafts: DraftCounts = field(default_factory=DraftCounts)

    def add_read(self, prefilled: Prefilled) -> None:
        """Count a text that was read."""
        self.tokens_read += prefilled.n_tokens
        self.seconds_read += prefilled.seconds

    def add_written(self, reply: ChatReply) -> None:
        """Count a reply that has ended."""
        done = reply.result
        self.tokens_written += len(done.token_ids)
        self.seconds_written += done.timings.decode_seconds
        self.drafts.add(done.drafts)


@dataclass
class Session:
    """The data that the commands of the chat use and change.

    Attributes:
        model: the model that answers.
        conversation: the present conversation, which receives messages.
        store: the saved chats.
        language: the language of notices and help.
        seed: the seed of the first reply; reply number i uses seed + i. None: random.
        progress: called with the progress of reading long texts.
        name: name of the present conversation.
        conversations: all conversations in memory by name, including the present one.
        free: the last free text.
        counts: tokens and seconds.
    """

    model: Model
    conversation: Conversation
    store: ChatStore = field(default_factory=ChatStore)
    language: Language = field(default_factory=lambda: language_named("en"))
    seed: int | None = None
    progress: Progress | None = None
    name: str = FIRST_NAME
    conversations: dict[str, Conversation] = field(default_factory=dict)
    free: FreeText = field(init=False)
    counts: SessionCounts = field(default_factory=SessionCounts)

    def __post_init__(self) -> None:
        self.free = FreeText(self.model, speculation=self.conversation.speculation)
        self.conversations[self.name] = self.conversation

    def settings(self, options: InlineOptions) -> ChatSettings:
        """Return the conversation's settings with the message's options and the next seed."""
        settings = self.conversation.settings
        seed = None if self.seed is None else (self.seed + self.counts.replies) % SEED_LIMIT
        prose = settings.prose and replace(options.apply(settings.prose), seed=seed)
        sampling = replace(options.apply(settings.sampling), seed=seed)
        return replace(settings, sampling=sampling, prose=prose)

    def count_reply(self, reply: ChatReply) -> None:
        """Count a reply that starts."""
        self.counts.replies += 1
        if reply.prefilled is not None:
            self.counts.add_read(reply.prefilled)

    def finish(self, reply: ChatReply) -> str:
        """Store the state after a reply; call it after the last piece or an interrupt.

        Returns:
            A notice for the user, or "".
        """
        before = self.conversation.now.entries
        reply.owner.finish(reply)
        self.counts.add_written(reply)
        tokens = len(reply.result.token_ids)
        if reply.owner is self.free:
            note = self.free.note(reply)
            return self.say(note, tokens=tokens) if note else ""
        if reply.result.finish_reason == "length":
            return self.say("cut", tokens=tokens)
        if isinstance(reply, TurnReply) and reply.is_deterministic:
            repeats = before == self.conversation.now.entries
            return self.say("always_the_same") if repeats else ""
        return ""

    def fork(self, name: str) -> None:
        """Continue in a copy of the conversation; the original stays in memory under its name.

        Raises:
            InputError: if the name is taken or not allowed.
        """
        name = checked_name(name)
        if name in self.conversations:
            raise InputError(f"{name}: a conversation of that name is in memory; choose another")
        self.conversations[name] = self.conversation.fork()
        self.switch(name)

    def switch(self, name: str) -> None:
        """Continue in another conversation that is in memory."""
        self.name, self.conversation = name, self.conversations[name]

    def say(self, key: str, **values: object) -> str:
        """Return a notice in the user's language."""
        return self.language.say(key, **values)

    def join(self, names: Iterable[str]) -> str:
        """Join names with the separator of the user's language."""
        return self.language.texts["comma"].join(names)

    @property
    def facts(self) -> Mapping[str, object]:
        """The values that `+stats` displays."""
        state, counts = self.conversation.state, self.counts
        return {
            "turns": sum(entry.kind == "turn" for entry in self.conversation.now.entries),
            "seen": state.tokens_seen[0] if state else 0,
            "read": counts.tokens_read,
            "written": counts.tokens_written,
            "read_rate": _rate(counts.tokens_read, counts.seconds_read),
            "written_rate": _rate(counts.tokens_written, counts.seconds_written),
            "drafted": counts.drafts.drafted,
            "accepted": counts.drafts.accepted,
            "per_pass": counts.drafts.tokens_per_pass,
            "bytes": (state or self.model.new_state()).n_bytes,
        }


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds else 0.0
