"""What tells of the server itself: models, health, metrics, tokens, and the page."""

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from wkv.inference.sampling import Sampling
from wkv.prompting.presets import PRESETS
from wkv.serve.errors import ApiError
from wkv.serve.metrics import CONTENT_TYPE, CacheSize
from wkv.serve.requests import DetokenizeRequest, TokenizeRequest
from wkv.serve.sampling_params import FIELDS, check_model
from wkv.serve.service import Service

KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: run and load what is here, and nothing else."""

Json = dict[str, Any]


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter()
    own = _model_body(service)
    page = _page()

    @router.get("/v1/models")
    async def models() -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [own]})

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """The model of a name."""
        check_model(name, service.settings.name)
        return JSONResponse(own)

    @router.get("/health")
    async def health() -> Response:
        """Whether requests are taken, and how many there are."""
        engine = service.engine
        ok = engine.is_alive and not engine.is_closing
        status = "ok" if ok else "closing" if engine.is_closing else "failed"
        load = engine.load
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
    async def metrics() -> Response:
        """Counters for Prometheus."""
        engine = service.engine
        cache = engine.scheduler.cache
        text = service.metrics.text(engine.load, CacheSize(len(cache), cache.n_bytes))
        return PlainTextResponse(text, media_type=CONTENT_TYPE)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        """A text as ids."""
        check_model(body.model, service.settings.name)
        ids = await run_in_threadpool(service.model.tokenizer.encode, body.content)
        return JSONResponse({"tokens": ids, "count": len(ids)})

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Response:
        """Ids as a text."""
        check_model(body.model, service.settings.name)
        text = await run_in_threadpool(service.model.tokenizer.decode, body.tokens)
        return JSONResponse({"content": text})

    @router.get("/", include_in_schema=False)
    async def start() -> Response:
        """The chat page."""
        return _file(page, "index.html")

    @router.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        """A file of the page."""
        return _file(page, name)

    return router


def _model_body(service: Service) -> Json:
    """The model as `/v1/models` tells it; under `wkv`, what OpenAI has no name for."""
    model, preset = service.model, service.preset
    config = model.config
    about = {
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
        "presets": {name: _sampling_body(one.sampling) for name, one in PRESETS.items()},
    }
    name = service.settings.name
    return {"id": name, "object": "model", "created": 0, "owned_by": "wkv", "wkv": about}


def _sampling_body(sampling: Sampling) -> Json:
    return {name: getattr(sampling, name) for name in FIELDS}


def _page() -> dict[str, tuple[bytes, str]]:
    """The page's files by their names, with their kinds; read once, so no name becomes a path."""
    folder = files("wkv.page")
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        kind = KINDS.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            found[file.name] = (file.read_bytes(), kind)
    return found


def _file(page: dict[str, tuple[bytes, str]], name: str) -> Response:
    if name not in page:
        raise ApiError(404, "there is no such file")
    data, kind = page[name]
    headers = {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(data, media_type=f"{kind}; charset=utf-8", headers=headers)
