"""One user at one chat: conversations in memory, free text, saved chats, counts, language."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from wkv.chat.conversation import Conversation, TurnReply
from wkv.chat.free_text import FreeText
from wkv.chat.inline_options import Inline
from wkv.chat.language import Language, language_named
from wkv.chat.reply import Reply
from wkv.chat.saved_chats import Store, checked_name
from wkv.chat.settings import Settings
from wkv.errors import InputError
from wkv.inference.model import Model
from wkv.inference.prefill import Prefilled, Progress

FIRST_NAME = "main"
"""What the first conversation is called."""

MOST_SEEDS = 2**63


@dataclass
class Counts:
    """What a session has read and written, in tokens and seconds."""

    tokens_read: int = 0
    tokens_written: int = 0
    seconds_read: float = 0.0
    seconds_written: float = 0.0
    replies: int = 0

    def add_read(self, reading: Prefilled) -> None:
        """Count a text that was read."""
        self.tokens_read += reading.n_tokens
        self.seconds_read += reading.seconds

    def add_written(self, reply: Reply) -> None:
        """Count a reply that has ended."""
        done = reply.result
        self.tokens_written += len(done.token_ids)
        self.seconds_written += done.timings.decode_seconds


@dataclass
class Session:
    """All that the commands of the chat work on.

    Attributes:
        model: that answers.
        conversation: the one that messages go to.
        store: of saved chats.
        language: of notices and help.
        seed: reply number i of the session is drawn with seed + i; None differs each time.
        progress: told how far long texts are read.
        name: of the conversation in memory.
        others: conversations in memory by name, this one included.
        free: the last free generation.
        counts: tokens and seconds.
    """

    model: Model
    conversation: Conversation
    store: Store = field(default_factory=Store)
    language: Language = field(default_factory=lambda: language_named("en"))
    seed: int | None = None
    progress: Progress | None = None
    name: str = FIRST_NAME
    others: dict[str, Conversation] = field(default_factory=dict)
    free: FreeText = field(init=False)
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.free = FreeText(self.model)
        self.others[self.name] = self.conversation

    def settings(self, options: Inline) -> Settings:
        """The settings of the next reply: the conversation's, the message's options, the seed."""
        settings = self.conversation.settings
        seed = None if self.seed is None else (self.seed + self.counts.replies) % MOST_SEEDS
        prose = settings.prose and replace(options.over(settings.prose), seed=seed)
        sampling = replace(options.over(settings.sampling), seed=seed)
        return replace(settings, sampling=sampling, prose=prose)

    def begun(self, reply: Reply | None) -> Reply | None:
        """Count a reply that begins; returns it."""
        if reply is not None:
            self.counts.replies += 1
            if reply.reading is not None:
                self.counts.add_read(reply.reading)
        return reply

    def finish(self, reply: Reply) -> str:
        """Keep what a reply left behind; call it when its last piece came, or it was stopped.

        Returns a notice, if there is something to say about it.
        """
        before = self.conversation.now.entries
        reply.owner.finish(reply)
        self.counts.add_written(reply)
        if reply.result.finish_reason == "length" and not reply.is_free:
            return self.say("cut", tokens=len(reply.result.token_ids))
        if isinstance(reply, TurnReply) and reply.is_exact:
            repeats = before == self.conversation.now.entries
            return self.say("always_the_same") if repeats else ""
        return ""

    def fork(self, name: str) -> None:
        """Go on in a copy of the conversation; the conversation itself stays under its name.

        Raises:
            InputError: if the name is taken, or no name.
        """
        name = checked_name(name)
        if name in self.others:
            raise InputError(f"{name}: a conversation of that name is in memory; choose another")
        self.others[name] = self.conversation.fork()
        self.switch(name)

    def switch(self, name: str) -> None:
        """Go on in another conversation that is in memory."""
        self.name, self.conversation = name, self.others[name]

    def say(self, key: str, **values: object) -> str:
        """A notice in the user's language."""
        return self.language.say(key, **values)

    def listed(self, names: Iterable[str]) -> str:
        """Names, one after the other."""
        return self.language.texts["comma"].join(names)

    @property
    def facts(self) -> Mapping[str, object]:
        """What `+stats` tells."""
        state, counts = self.conversation.state, self.counts
        return {
            "turns": sum(entry.kind == "turn" for entry in self.conversation.now.entries),
            "seen": state.tokens_seen[0] if state else 0,
            "read": counts.tokens_read,
            "written": counts.tokens_written,
            "read_rate": _rate(counts.tokens_read, counts.seconds_read),
            "written_rate": _rate(counts.tokens_written, counts.seconds_written),
            "bytes": (state or self.model.new_state()).n_bytes,
        }


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds else 0.0
