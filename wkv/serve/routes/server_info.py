"""Routes about the server itself: models, health, metrics, tokenization, and the chat page."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from wkv.inference.sampling import Sampling
from wkv.prompting.presets import PRESETS
from wkv.serve.metrics import CONTENT_TYPE, CacheSize
from wkv.serve.middleware import METRICS
from wkv.serve.protocol.errors import ApiError
from wkv.serve.protocol.requests import SAMPLING_FIELDS, DetokenizeRequest, TokenizeRequest
from wkv.serve.protocol.responses import (
    DetokenizedText,
    Health,
    ModelList,
    ServedModel,
    Tokens,
)
from wkv.serve.read_body import BodyRoute
from wkv.serve.service import Service
from wkv.serve.stream_reply import json_response

MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

EPOCH = "1970-01-01T00:00:00Z"
"""The time at which a model was made, which is unknown."""

ENDLESS = 2**20
"""The length of a prompt that clients may count on; a recurrent model has no limit."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: only scripts and data of this server."""

Json = dict[str, Any]


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(route_class=BodyRoute)
    served = _model_bodies(service)
    page = _page()

    @router.get("/v1/models", response_model=ModelList)
    async def models() -> Response:
        """List the served model and its variants, for clients of both APIs."""
        ends = {"has_more": False, "first_id": served[0]["id"], "last_id": served[-1]["id"]}
        return JSONResponse({"object": "list", "data": served, **ends})

    @router.get("/v1/models/{name:path}", response_model=ServedModel)
    async def model(name: str) -> Response:
        """Return the model with a name."""
        variant = service.variants.find(name)
        return JSONResponse(next(one for one in served if one["id"] == variant.model))

    @router.get("/health", response_model=Health)
    async def health() -> Response:
        """Return whether the server accepts requests, and its load."""
        thread = service.scheduler_thread
        ok = thread.is_alive and not thread.is_closing
        status = "ok" if ok else "closing" if thread.is_closing else "failed"
        load = thread.load
        body = {
            "status": status,
            "writing": load.running,
            "reading": load.prefilling,
            "queued": load.queued,
            "tasks": load.tasks,
            "slots": load.slots,
        }
        return JSONResponse(body, 200 if ok else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics(http: HttpRequest) -> Response:
        """Return metrics in Prometheus' text format; with API keys, only for the first one."""
        if METRICS not in http.auth.scopes:  # they tell what all other keys do
            raise ApiError(403, "only the first API key of the server may read the metrics")
        thread = service.scheduler_thread
        cache = thread.scheduler.cache
        slots = thread.scheduler.model.slot_usage
        text = service.metrics.text(thread.load, CacheSize(len(cache), cache.n_bytes), slots)
        return PlainTextResponse(text, media_type=CONTENT_TYPE)

    @router.post("/tokenize", response_model=Tokens)
    async def tokenize(body: TokenizeRequest) -> Response:
        """Encode a text as token ids."""
        service.variants.find(body.model)

        def build() -> Json:
            ids = service.model.tokenizer.encode(body.content)
            return {"tokens": ids, "count": len(ids)}

        return await json_response(build)

    @router.post("/detokenize", response_model=DetokenizedText)
    async def detokenize(body: DetokenizeRequest) -> Response:
        """Decode token ids as a text."""
        service.variants.find(body.model)
        return await json_response(lambda: {"content": service.model.tokenizer.decode(body.tokens)})

    @router.get("/", include_in_schema=False)
    async def start() -> Response:
        """Return the chat page."""
        return _file(page, "index.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        """Return a file of the chat page."""
        return _file(page, name)

    return router


def _model_bodies(service: Service) -> list[Json]:
    """Return the served model, then its variants.

    The fields are those of OpenAI's and of Anthropic's API; `wkv` contains other properties.
    """
    model, preset = service.model, service.preset
    config = model.config
    details = {
        "generation": config.generation,
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "vocab_size": config.vocab_size,
        "strategy": str(model.strategy),
        "engine": model.engine,
        "thinks": service.thinks,
        "state_bytes": model.new_state().n_bytes,
        "sampling": _sampling_body(preset.sampling),
        "max_tokens": preset.max_tokens,
        "presets": {name: _sampling_body(p.sampling) for name, p in PRESETS.items()},
    }
    base, variants = service.settings.name, service.variants
    body = {"id": base, "object": "model", "created": 0, "owned_by": "wkv", "wkv": details}
    anthropic = {
        "type": "model",
        "display_name": base,
        "created_at": EPOCH,
        "lifecycle": "active",
        "max_input_tokens": ENDLESS,
        "max_tokens": service.settings.max_tokens,
    }
    bodies = [body | anthropic]
    for name in variants.names:
        kind = {"kind": "state" if name in variants.states else "adapter"}
        names = {"id": f"{base}:{name}", "display_name": f"{base}:{name}", "parent": base}
        bodies.append(body | anthropic | names | {"wkv": details | kind})
    return bodies


def _sampling_body(sampling: Sampling) -> Json:
    return {name: getattr(sampling, name) for name in SAMPLING_FIELDS}


def _page() -> dict[str, tuple[bytes, str]]:
    """Return the content and media type of each file of the page.

    The files are read once, so that no name in a request becomes a path.
    """
    folder = files("wkv.page")
    page = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        media_type = MEDIA_TYPES.get("." + file.name.rpartition(".")[2])
        if media_type is not None:
            page[file.name] = (file.read_bytes(), media_type)
    return page


def _file(page: dict[str, tuple[bytes, str]], name: str) -> Response:
    if name not in page:
        raise ApiError(404, "the file does not exist; the chat page is at /")
    data, media_type = page[name]
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(data, media_type=f"{media_type}; charset=utf-8", headers=headers)
