"""The ASGI application: a model with its scheduler, the middleware and the routes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware

from wkv.batching import Scheduler, StateCache, StateFolder
from wkv.constraints.grammar import Grammars
from wkv.inference.model import Model
from wkv.inference.speculation import Speculation
from wkv.prompting.presets import preset_for
from wkv.prompting.template import template_for
from wkv.serve.error_format import ErrorFormat
from wkv.serve.key_value_store import KeyValueStore
from wkv.serve.metrics import Metrics
from wkv.serve.middleware import (
    ApiKeys,
    BodyLimit,
    FramingCheck,
    HostCheck,
    SendTimeout,
    on_authentication_error,
)
from wkv.serve.protocol.anthropic import MESSAGE_EVENTS
from wkv.serve.protocol.errors import add_error_handlers
from wkv.serve.protocol.response_objects import RESPONSE_EVENTS
from wkv.serve.protocol.responses import ChatCompletionChunk, ErrorResponse, TextCompletion
from wkv.serve.render_prompt import PromptRenderer, ReplyMemory, vocabulary_identity
from wkv.serve.request_target import Decompression, RequestTarget
from wkv.serve.routes import (
    chat,
    completions,
    decisions,
    documentation,
    embeddings,
    messages,
    responses,
    server_info,
    states,
)
from wkv.serve.scheduler_thread import SchedulerThread
from wkv.serve.service import Limits, ServerSettings, Service
from wkv.serve.user_states import UserStates
from wkv.serve.variants import Variants
from wkv.version import __version__

ROUTES = (
    server_info.routes,
    chat.routes,
    completions.routes,
    embeddings.routes,
    responses.routes,
    messages.routes,
    decisions.routes,
    states.routes,
    documentation.routes,
)

ERROR_STATUSES = (400, 401, 403, 404, 405, 413, 415, 422, 429, 500, 503, 507)

SCHEMAS = "#/components/schemas/{model}"

ERROR = {
    "description": "An error",
    "content": {
        "application/json": {"schema": {"$ref": SCHEMAS.format(model=ErrorResponse.__name__)}}
    },
}

REFERENCED = (ErrorResponse, ChatCompletionChunk, TextCompletion, *RESPONSE_EVENTS, *MESSAGE_EVENTS)
"""Models that the OpenAPI document references outside of `response_model`."""


KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""The ways to send an API key."""


class Application(FastAPI):
    """FastAPI with errors, streamed events and API keys in its OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        _, schemas = models_json_schema(
            [(model, "serialization") for model in REFERENCED], ref_template=SCHEMAS
        )
        document["components"]["schemas"] |= schemas["$defs"]
        document["components"]["securitySchemes"] = KEY_SCHEMES
        if self.state.service.settings.keys:
            document["security"] = [{name: []} for name in KEY_SCHEMES]
        return document


def create_app(
    model: Model,
    settings: ServerSettings,
    limits: Limits | None = None,
    speculation: Speculation | None = None,
) -> FastAPI:
    """Return an application that serves a model. Its scheduler stops with its lifespan.

    With `speculation`, the sequences are decoded speculatively; their texts do not change.

    Raises:
        StateError: if the folder for states cannot be used.
        TokenizerError: if the model has no tokenizer.
        InputError: if a state and an adapter have the same name, or a reserved one.
    """
    limits = limits or Limits()
    variants = Variants(settings.name, model, settings.states, settings.start)
    # The object removes its folder when it is deleted, even if the lifespan does not end.
    temporary = None if limits.folder else TemporaryDirectory(prefix="wkv-states-")
    folder = limits.folder or Path(temporary.name if temporary else "")
    if limits.folder is not None:  # it contains conversations, so only its owner may read it
        with suppress(OSError):  # the first use of the folder reports what is wrong with it
            (folder / "cache").mkdir(mode=0o700, parents=True, exist_ok=True)
    on_disk = limits.folder is not None
    state_folder = StateFolder(folder / "cache", model, limits.disk_bytes) if on_disk else None
    scheduler = Scheduler(
        model,
        StateCache(limits.cache_bytes, state_folder),
        slots=limits.slots,
        queue=limits.queue,
        reader_timeout=settings.idle_seconds,
        speculation=speculation,
    )
    values = KeyValueStore(folder / "notes" if on_disk else None)
    # The first use of the tokenizer creates it, which several threads must not do at once.
    memory = ReplyMemory(values, vocabulary_identity(model))
    service = Service(
        model=model,
        scheduler_thread=SchedulerThread(scheduler, Metrics()),
        renderer=PromptRenderer(model, template_for(model), memory),
        states=UserStates(folder / "kept", model, limits.disk_bytes),
        values=values,
        grammars=Grammars(model.tokenizer, model.config.vocab_size),
        preset=preset_for(model),
        settings=settings,
        variants=variants,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        service.scheduler_thread.close()
        values.close()
        if temporary is not None:
            temporary.cleanup()

    app = Application(
        title="wkv",
        version=__version__,
        description="RWKV language models behind an OpenAI-compatible interface.",
        lifespan=lifespan,
        docs_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header of the request
        redoc_url=None,
        responses=dict.fromkeys(ERROR_STATUSES, ERROR),
    )
    app.state.service = service
    for routes in ROUTES:
        app.include_router(routes(service))
    add_error_handlers(app)
    # The file of a state may be larger than other bodies.
    state_file = 2 * model.new_state().n_bytes + 8 * model.config.vocab_size + 2**20
    uploads = {"/v1/states/upload": max(state_file, settings.max_body)}
    app.add_middleware(BodyLimit, limit=settings.max_body, paths=uploads)
    app.add_middleware(Decompression)
    app.add_middleware(
        AuthenticationMiddleware, backend=ApiKeys(settings.keys), on_error=on_authentication_error
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"]
        )
    if settings.hosts:
        app.add_middleware(HostCheck, names=settings.hosts)
    app.add_middleware(SendTimeout, seconds=settings.idle_seconds)
    app.add_middleware(ErrorFormat)
    app.add_middleware(RequestTarget)
    app.add_middleware(FramingCheck)
    return app
