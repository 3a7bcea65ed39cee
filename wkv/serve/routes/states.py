"""`/v1/states`: states that users create, list, download, upload and delete."""

from urllib.parse import unquote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from wkv.batching import ChoiceDone, Request
from wkv.inference.prefill import prompt_ids
from wkv.inference.sampling import Sampling
from wkv.models.state import State
from wkv.prompting.template import SEPARATOR
from wkv.serve.build_constraints import ReplyFormat
from wkv.serve.chat_messages import messages_of
from wkv.serve.middleware import tenant_of
from wkv.serve.protocol.errors import ApiError
from wkv.serve.protocol.requests import StateRequest
from wkv.serve.protocol.responses import Deleted, SavedState, StateList
from wkv.serve.read_body import BodyRoute
from wkv.serve.service import Service
from wkv.serve.stream_reply import until_disconnect
from wkv.serve.user_states import SUFFIX

BINARY = "application/octet-stream"
LONGEST_NAME = 200

DOWNLOAD = {"description": "The file", "content": {BINARY: {"schema": {"type": "string"}}}}
UPLOAD = {"requestBody": {"required": True, "content": {BINARY: {"schema": {"type": "string"}}}}}


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/v1/states", route_class=BodyRoute)
    states = service.states

    @router.post("", status_code=201, response_model=SavedState)
    async def create(body: StateRequest, http: HttpRequest) -> Response:
        """Read messages or a text, and save the state after them."""
        tenant, name = tenant_of(http), _name_of(http)
        request, read_ahead = await run_in_threadpool(_prepare, service, body, tenant)
        state = await until_disconnect(http, _read(service, request))
        saved = await run_in_threadpool(states.save, tenant, state, read_ahead, name)
        return JSONResponse(saved.body, 201)

    @router.get("", response_model=StateList)
    async def list_all(http: HttpRequest) -> Response:
        """List the client's states."""
        saved = await run_in_threadpool(states.list, tenant_of(http))
        return JSONResponse({"object": "list", "data": [state.body for state in saved]})

    @router.post("/upload", status_code=201, response_model=SavedState, openapi_extra=UPLOAD)
    async def upload(http: HttpRequest) -> Response:
        """Save the file of a state, which is the body of the request."""
        # A browser sends this type for another website only after it has asked this server.
        if http.headers.get("content-type", "").partition(";")[0] != BINARY:
            raise ApiError(400, f"send the file with the header 'Content-Type: {BINARY}'")
        name, data = _name_of(http), await http.body()
        saved = await run_in_threadpool(states.upload, tenant_of(http), data, name)
        return JSONResponse(saved.body, 201)

    @router.get("/{name}", response_model=SavedState)
    async def retrieve(name: str, http: HttpRequest) -> Response:
        """Return the description of a state."""
        return JSONResponse(states.describe(tenant_of(http), name).body)

    @router.get("/{name}/content", response_class=Response, responses={200: DOWNLOAD})
    async def content(name: str, http: HttpRequest) -> Response:
        """Return the file of a state."""
        data = await run_in_threadpool(states.data, tenant_of(http), name)
        headers = {"Content-Disposition": f'attachment; filename="{name}{SUFFIX}"'}
        return Response(data, media_type=BINARY, headers=headers)

    @router.delete("/{name}", response_model=Deleted)
    async def delete(name: str, http: HttpRequest) -> Response:
        """Delete a state."""
        states.delete(tenant_of(http), name)
        return JSONResponse({"id": name, "object": "state", "deleted": True})

    return router


def _name_of(http: HttpRequest) -> str:
    """Return the name for a new state, which a client sends percent-encoded beside the body.

    Raises:
        ApiError: if it is too long.
    """
    name = unquote(http.headers.get("x-state-name", ""))
    if len(name) > LONGEST_NAME:
        message = f"the name has {len(name)} characters, expected at most {LONGEST_NAME}"
        raise ApiError(400, f"{message}; shorten X-State-Name")
    return name


def _prepare(service: Service, body: StateRequest, tenant: str) -> tuple[Request, str]:
    """Return the request to the scheduler, and the text that it reads after the last message.

    Raises:
        ApiError, InputError: if the request is invalid.
    """
    if (body.messages is None) == (body.prompt is None):
        raise ApiError(400, "give either messages or prompt", param="messages")
    start = service.conversation_start(body.state, tenant, body.model)
    if body.messages is not None:
        messages = messages_of(body.messages, ReplyFormat())
        prompt = service.renderer.render_messages(messages, start)
        ids, message_boundaries = prompt.ids, prompt.message_boundaries
        read_ahead = prompt.read_ahead
    else:
        text = body.prompt or ""
        ids = tuple(prompt_ids(service.model, text, start.state))
        newlines = len(text) - len(text.rstrip("\n"))
        message_boundaries, read_ahead = (), SEPARATOR[: min(newlines, len(SEPARATOR))]
    request = Request(
        ids=ids,
        sampling=Sampling(),
        max_tokens=0,
        message_boundaries=message_boundaries,
        tenant=start.tenant,
        start=start.state,
    )
    return request, read_ahead


async def _read(service: Service, request: Request) -> State:
    """Return the state after a prompt.

    Raises:
        ApiError: if the model returns NaN or infinite logits.
    """
    events = service.scheduler_thread.submit(request)
    try:
        async for _, event in events:
            if isinstance(event, ChoiceDone):
                logits = event.state.logits
                if logits is None or not bool(logits.isfinite().all()):
                    raise ApiError(500, "the logits are not finite; the state was not saved")
                return event.state
    finally:
        events.close()
    raise ApiError(500, "the prompt was not read to its end")
