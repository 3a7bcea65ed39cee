"""The objects that all routes share: the model, its scheduler, and the stored states and values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wkv.constraints.grammar import Grammars
from wkv.inference.model import Model
from wkv.models.state import State
from wkv.prompting.presets import Preset, ends_at_blank_line
from wkv.prompting.template import SEPARATOR, Thinking
from wkv.serve.key_value_store import KeyValueStore
from wkv.serve.metrics import Metrics
from wkv.serve.render_prompt import ConversationStart, PromptRenderer
from wkv.serve.scheduler_thread import SchedulerThread
from wkv.serve.user_states import UserStates
from wkv.serve.variants import Variants
from wkv.tokenizers.world import WORLD_VOCAB_SIZE


@dataclass(frozen=True)
class ServerSettings:
    """The settings of a server.

    Attributes:
        name: the model name that clients see.
        keys: accepted API keys; without any, no key is needed.
        hosts: accepted names in Host headers; without any, all are accepted.
        origins: addresses of other websites that browsers may send requests from; "*" for all.
        max_body: the largest size of a request body, in bytes.
        idle_seconds: the time after which a client that receives nothing is disconnected.
        drain_seconds: the time that requests have to finish when the server stops.
        max_tokens: the largest number of tokens of a reply.
        states: tuned states by name, which requests can begin from.
        start: the tuned state that other requests begin from; None for the empty state.
        strict: whether fields that have no effect are refused.
    """

    name: str
    keys: Sequence[str] = ()
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    max_body: int = 2**24
    idle_seconds: float = 60.0
    drain_seconds: float = 30.0
    max_tokens: int = 2**17
    states: Mapping[str, State] = field(default_factory=dict)
    start: State | None = None
    strict: bool = False


@dataclass(frozen=True)
class Limits:
    """The resources of a server.

    Attributes:
        slots: number of sequences that run at the same time.
        queue: number of requests that may wait for a slot.
        cache_bytes: memory for cached states.
        folder: folder for data that survives a restart; None stores nothing.
        disk_bytes: disk space for states in the folder.
    """

    slots: int = 16
    queue: int = 64
    cache_bytes: int = 2**30
    folder: Path | None = None
    disk_bytes: int = 10 * 2**30


@dataclass
class Service:
    """A model that is served.

    Attributes:
        model: the model.
        scheduler_thread: the scheduler in its thread.
        renderer: renders prompts, and remembers replies.
        states: the states that users save.
        values: stored responses and remembered replies.
        grammars: compiled grammars, of each tenant separately.
        preset: default sampling parameters of chat replies.
        settings: the settings of the server.
        variants: the model with its named states and adapters.
    """

    model: Model
    scheduler_thread: SchedulerThread
    renderer: PromptRenderer
    states: UserStates
    values: KeyValueStore
    grammars: Grammars
    preset: Preset
    settings: ServerSettings
    variants: Variants

    def __post_init__(self) -> None:
        config = self.model.config
        # No file says whether a model can think. RWKV-7 G1 can, whose vocabulary is World's.
        self.thinks = config.generation in ("7", "7a") and config.vocab_size == WORLD_VOCAB_SIZE
        self._ends_at_blank_line = ends_at_blank_line(self.model, self.preset)

    @property
    def metrics(self) -> Metrics:
        """Counters and histograms."""
        return self.scheduler_thread.metrics

    def turn_stops(self, thinking: Thinking) -> tuple[str, ...]:
        """Return the strings that end a turn; reasoning may contain blank lines."""
        if self._ends_at_blank_line and thinking is Thinking.PLAIN:
            return (SEPARATOR,)
        return (self.renderer.template.next_turn,)

    def max_tokens(self, requested: int | None, default: int) -> int:
        """Return the largest number of tokens of a reply, at most the limit of the server.

        Without a number the default counts, and -1 means the limit of the server.
        """
        limit = self.settings.max_tokens
        if requested == -1:
            return limit
        return min(default if requested is None else requested, limit)

    def conversation_start(
        self, state: str | None, tenant: str, model: str | None = None
    ) -> ConversationStart:
        """Return the start of a conversation: a tuned or saved state, or a new conversation.

        Args:
            state: the name of a tuned state, or the id of a saved one; None: that of the model.
            tenant: who asks.
            model: the name of the model or of one of its variants.

        Raises:
            ApiError: if the model or the state does not exist, or they do not fit each other.
        """
        variant = self.variants.find(model)
        if state is None or state in self.variants.states:
            start, key = self.variants.start(variant, state)
            who = f"{tenant}/{key}" if key else tenant
            return ConversationStart(who, start, model=variant.model)
        saved, read_ahead = self.states.load(tenant, state)
        saved = self.variants.with_adapter(variant, saved)
        who = "/".join([tenant, *filter(None, saved.adapters), state])
        return ConversationStart(who, saved, read_ahead, model=variant.model)
