"""`/v1/states`: states that users make, list, fetch as files, upload and delete."""

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from wkv.batching import ChoiceDone, Request
from wkv.inference.prefill import prompt_ids
from wkv.inference.sampling import Sampling
from wkv.models.state import State
from wkv.prompting.template import SEPARATOR
from wkv.serve.errors import ApiError
from wkv.serve.event_stream import while_listened
from wkv.serve.requests import StateRequest
from wkv.serve.response_format import ReplyFormat, messages_of
from wkv.serve.service import Service, tenant_of
from wkv.serve.user_states import SUFFIX

FILE = "application/octet-stream"


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/states")
    states = service.states

    @router.post("", status_code=201)
    async def make(body: StateRequest, http: HttpRequest) -> Response:
        """Read messages, or a text as it is, and keep the state."""
        tenant = tenant_of(http)
        request, ahead = await run_in_threadpool(_prepare, service, body, tenant)
        state = await while_listened(http, _read(service, request))
        kept = await run_in_threadpool(states.keep, tenant, state, ahead)
        return JSONResponse(kept.body, 201)

    @router.get("")
    async def list_all(http: HttpRequest) -> Response:
        """All of the caller's states."""
        kept = await run_in_threadpool(states.list, tenant_of(http))
        return JSONResponse({"object": "list", "data": [state.body for state in kept]})

    @router.post("/upload", status_code=201)
    async def upload(http: HttpRequest) -> Response:
        """Keep a state's file: the body is its bytes, as application/octet-stream."""
        # A page elsewhere can have a browser send other types without asking us first.
        if http.headers.get("content-type", "").partition(";")[0] != FILE:
            raise ApiError(400, f"send the file with the header 'Content-Type: {FILE}'")
        data = await http.body()
        kept = await run_in_threadpool(states.upload, tenant_of(http), data)
        return JSONResponse(kept.body, 201)

    @router.get("/{name}")
    async def about(name: str, http: HttpRequest) -> Response:
        """What is told of a state."""
        return JSONResponse(states.about(tenant_of(http), name).body)

    @router.get("/{name}/content")
    async def content(name: str, http: HttpRequest) -> Response:
        """A state's file."""
        data = await run_in_threadpool(states.data, tenant_of(http), name)
        attached = {"Content-Disposition": f'attachment; filename="{name}{SUFFIX}"'}
        return Response(data, media_type=FILE, headers=attached)

    @router.delete("/{name}")
    async def delete(name: str, http: HttpRequest) -> Response:
        """Delete a state."""
        states.delete(tenant_of(http), name)
        return JSONResponse({"id": name, "object": "state", "deleted": True})

    return router


def _prepare(service: Service, body: StateRequest, tenant: str) -> tuple[Request, str]:
    """What is read, and what of it lies beyond the last turn."""
    if (body.messages is None) == (body.prompt is None):
        raise ApiError(400, "give either messages or prompt", param="messages")
    start = service.start_of(body.state, tenant)
    if body.messages is not None:
        script = service.prompts.read(messages_of(body.messages, ReplyFormat()), start)
        ids, message_boundaries, ahead = script.ids, script.message_boundaries, script.ahead
    else:
        ids = tuple(prompt_ids(service.model, body.prompt or "", start.state))
        written = body.prompt or ""
        newlines = len(written) - len(written.rstrip("\n"))
        message_boundaries, ahead = (), SEPARATOR[: min(newlines, len(SEPARATOR))]
    request = Request(
        ids=ids,
        sampling=Sampling(),
        max_tokens=0,
        message_boundaries=message_boundaries,
        tenant=start.tenant,
        start=start.state,
    )
    return request, ahead


async def _read(service: Service, request: Request) -> State:
    """The state after a prompt."""
    answers = service.submit(request)
    try:
        async for _, event in answers:
            if isinstance(event, ChoiceDone):
                logits = event.state.logits
                if logits is None or not bool(logits.isfinite().all()):
                    raise ApiError(500, "the model gave no numbers; the state was not kept")
                return event.state
    finally:
        answers.close()
    raise ApiError(500, "the prompt was not read to its end")
