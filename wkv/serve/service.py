"""What all routes share: the model, its engine, and what was said and kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request as HttpRequest

from wkv.batching import Request
from wkv.constraints.grammar import Grammars
from wkv.errors import BusyError
from wkv.inference.model import Model
from wkv.prompting.presets import Preset, ends_at_blank_line, preset_for
from wkv.prompting.template import SEPARATOR, Thinking
from wkv.serve.engine import Engine, EventStream
from wkv.serve.key_value_store import KeyValueStore
from wkv.serve.metrics import Metrics
from wkv.serve.middleware import TENANT
from wkv.serve.render import Prompts, Start
from wkv.serve.user_states import KeptStates
from wkv.tokenizers.world import WORLD_VOCAB_SIZE


@dataclass(frozen=True)
class Settings:
    """How a server runs.

    Attributes:
        name: of the model, to clients.
        keys: API keys; none lets everybody in.
        hosts: names that requests may be for; none allows all.
        max_body: bytes of a request.
        idle_seconds: after which a reader that takes nothing is given up.
        drain_seconds: that requests have to end when the server stops.
        max_tokens: of a reply at most.
    """

    name: str
    keys: Sequence[str] = ()
    hosts: Sequence[str] = ()
    max_body: int = 2**24
    idle_seconds: float = 60.0
    drain_seconds: float = 30.0
    max_tokens: int = 2**17


@dataclass
class Service:
    """A model being served.

    Attributes:
        model: what answers.
        engine: its scheduler in a thread.
        prompts: conversations to ids.
        states: those that users keep by name.
        values: what is remembered of answers.
        grammars: that replies may have to follow.
        settings: how it is served.
    """

    model: Model
    engine: Engine
    prompts: Prompts
    states: KeptStates
    values: KeyValueStore
    grammars: Grammars
    settings: Settings

    @property
    def metrics(self) -> Metrics:
        """Counters and histograms."""
        return self.engine.metrics

    @property
    def preset(self) -> Preset:
        """How replies are drawn unless a request says otherwise."""
        return preset_for(self.model)

    @property
    def thinks(self) -> bool:
        """Whether the model may think before it answers, as RWKV-7 G1 does; no file says so."""
        config = self.model.config
        return config.generation in ("7", "7a") and config.vocab_size == WORLD_VOCAB_SIZE

    def turn_stops(self, thinking: Thinking) -> tuple[str, ...]:
        """Where a reply ends by itself; thoughts have paragraphs."""
        if ends_at_blank_line(self.model, self.preset) and thinking is Thinking.PLAIN:
            return (SEPARATOR,)
        return (self.prompts.template.next_turn,)

    def most_tokens(self, asked: int | None, usual: int) -> int:
        """How long a reply may be: what was asked, or what is usual, within the server's limit."""
        return min(usual if asked is None else asked, self.settings.max_tokens)

    def start_of(self, name: str | None, tenant: str) -> Start:
        """Where a conversation begins: at a state that was kept, or at the very beginning.

        Raises:
            ApiError: if there is no such state.
        """
        if name is None:
            return Start(tenant)
        state, ahead = self.states.load(tenant, name)
        return Start(f"{tenant}/{name}", state, ahead)

    def submit(self, *requests: Request) -> EventStream:
        """Give requests to the engine.

        Raises:
            InputError, BusyError: if the first is not taken.
        """
        try:
            answers = self.engine.submit(*requests)
        except BusyError:
            self.metrics.refused.inc()
            raise
        self.metrics.requests.inc()
        self.metrics.prompt_tokens.inc(sum(len(request.ids) for request in requests))
        return answers


def tenant_of(request: HttpRequest) -> str:
    """Whose request it is."""
    return str(request.scope.get(TENANT, ""))
