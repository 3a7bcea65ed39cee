"""The application: a model, its engine, and the routes, as one ASGI app."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI

from wkv.batching import Scheduler, StateCache, StateFolder
from wkv.constraints.grammar import Grammars
from wkv.inference.model import Model
from wkv.prompting.template import template_for
from wkv.serve.engine import Engine
from wkv.serve.errors import add_error_handlers
from wkv.serve.key_value_store import KeyValueStore
from wkv.serve.metrics import Metrics
from wkv.serve.middleware import BodyLimit, Hosts, Keys, SlowReaders
from wkv.serve.render import Prompts
from wkv.serve.reply_memory import Replies, speaker
from wkv.serve.routes import chat, completions, embeddings, responses, server_info, states
from wkv.serve.service import Service, Settings
from wkv.serve.user_states import KeptStates
from wkv.version import __version__

ROUTES = (
    server_info.routes,
    chat.routes,
    completions.routes,
    embeddings.routes,
    responses.routes,
    states.routes,
)

ERROR: dict[str, Any] = {
    "description": "An error",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
STATUSES = (400, 401, 404, 405, 413, 422, 429, 500, 503)


@dataclass(frozen=True)
class Limits:
    """How much a server may use.

    Attributes:
        slots: sequences that are read or written at once.
        queue: requests that may wait beyond them.
        cache_bytes: of states in memory.
        folder: where states outlive the process; None keeps them until it ends.
        disk_bytes: of states in the folder.
    """

    slots: int = 16
    queue: int = 64
    cache_bytes: int = 2**30
    folder: Path | None = None
    disk_bytes: int = 10 * 2**30


def create_app(model: Model, settings: Settings, room: Limits | None = None) -> FastAPI:
    """An application that serves a model; its engine ends with the application's lifespan.

    Raises:
        StateError: if the folder for states cannot be used.
        TokenizerError: if the model has no tokenizer.
    """
    room = room or Limits()
    # Removed with the application, however that ends.
    temporary = None if room.folder else TemporaryDirectory(prefix="wkv-states-")
    folder = room.folder or Path(temporary.name if temporary else "")
    if room.folder is not None:  # conversations lie in it; others need not read them
        with suppress(OSError):  # what is wrong with it is told by who uses it first
            room.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lasting = StateFolder(folder / "cache", model, room.disk_bytes) if room.folder else None
    scheduler = Scheduler(
        model,
        StateCache(room.cache_bytes, lasting),
        slots=room.slots,
        queue=room.queue,
        reader_timeout=settings.idle_seconds,
    )
    values = KeyValueStore(folder / "notes" if room.folder else None)
    assert model.tokenizer  # made here: several threads would make it several times
    service = Service(
        model,
        Engine(scheduler, Metrics()),
        Prompts(model, template_for(model), Replies(values, speaker(model))),
        KeptStates(folder / "kept", model, room.disk_bytes),
        values,
        Grammars(model.tokenizer, model.config.vocab_size),
        settings,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        service.engine.close()
        values.close()
        if temporary is not None:
            temporary.cleanup()

    app = FastAPI(
        title="wkv",
        version=__version__,
        description="RWKV language models behind an OpenAI-compatible interface.",
        lifespan=lifespan,
        docs_url=None,
        redirect_slashes=False,  # a redirection would repeat whatever host was asked for
        redoc_url=None,
        responses=dict.fromkeys(STATUSES, ERROR),
    )
    app.state.service = service
    for routes in ROUTES:
        app.include_router(routes(service))
    add_error_handlers(app)
    # A state's file must fit, whatever bodies may be otherwise.
    largest = 2 * model.new_state().n_bytes + 8 * model.config.vocab_size + 2**20
    uploads = {"/v1/states/upload": max(largest, settings.max_body)}
    app.add_middleware(BodyLimit, limit=settings.max_body, paths=uploads)
    app.add_middleware(Keys, keys=settings.keys)
    if settings.hosts:
        app.add_middleware(Hosts, names=settings.hosts)
    app.add_middleware(SlowReaders, seconds=settings.idle_seconds)
    return app
