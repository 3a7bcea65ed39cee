"""`/v1/responses`: conversations that the server stores, under the id of the last response.

A request is converted to a chat request and handled like one.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from wkv.batching import Request
from wkv.errors import StateError
from wkv.serve.ignored_fields import check_ignored, with_ignored
from wkv.serve.middleware import tenant_of
from wkv.serve.parse_reply import ReplyParser
from wkv.serve.protocol.errors import ApiError
from wkv.serve.protocol.requests import ResponseRequest, TextOptions
from wkv.serve.protocol.response_objects import RESPONSE_EVENTS, ResponseObject
from wkv.serve.protocol.responses import Deleted, InputTokens, now
from wkv.serve.read_body import BodyRoute
from wkv.serve.response_items import ConvertedRequest, ItemEvents, chat_request, items_of
from wkv.serve.routes.chat import ChatExchange, prepare
from wkv.serve.scheduler_thread import EventStream
from wkv.serve.service import Service
from wkv.serve.stream_reply import send_reply, stream_documentation

Json = dict[str, Any]


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/v1/responses", route_class=BodyRoute)
    documentation = stream_documentation(*RESPONSE_EVENTS)

    @router.post("", response_model=ResponseObject, responses=documentation)
    async def create(body: ResponseRequest, http: HttpRequest) -> Response:
        """Reply to a conversation, and store it."""
        check_ignored(service, body.ignored)
        exchange, request = await run_in_threadpool(_prepare, service, body, tenant_of(http))
        events = service.scheduler_thread.submit(request)
        try:
            await run_in_threadpool(exchange.reserve)
        except BaseException:
            events.close()
            raise
        response = await send_reply(http, exchange, events, stream=body.stream, last=None)
        return with_ignored(service, [*body.ignored, *exchange.converted.tools.left_out], response)

    @router.post("/input_tokens", response_model=InputTokens)
    async def input_tokens(body: ResponseRequest, http: HttpRequest) -> Response:
        """Return the number of tokens that a request would read."""
        _, request = await run_in_threadpool(_prepare, service, body, tenant_of(http))
        count = {"object": "response.input_tokens", "input_tokens": len(request.ids)}
        return JSONResponse(count)

    @router.get("/{name}", response_model=ResponseObject)
    async def retrieve(name: str, http: HttpRequest) -> Response:
        """Return a stored response."""
        return JSONResponse(_stored(service, name, tenant_of(http))["response"])

    @router.delete("/{name}", response_model=Deleted)
    async def delete(name: str, http: HttpRequest) -> Response:
        """Delete a stored response."""
        _stored(service, name, tenant_of(http))
        with _storing():
            service.values.delete(name.removeprefix("resp_"))
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    return router


def _prepare(
    service: Service, body: ResponseRequest, tenant: str
) -> tuple["ResponseExchange", Request]:
    """Convert a request to a chat request, and prepare that.

    Raises:
        ApiError, InputError, StateError: if the request is invalid.
    """
    history: list[Json] = []
    if body.previous_response_id is not None:
        history = _stored(service, body.previous_response_id, tenant)["messages"]
    converted = chat_request(body, history, thinks=service.thinks)
    chat, request = prepare(service, converted.chat, tenant)
    return ResponseExchange(chat, body, tenant, converted), request


def _stored(service: Service, response_id: str, tenant: str) -> Json:
    """Return the stored messages and body of a response.

    Raises:
        ApiError: if the tenant has no response with this id.
    """
    value: Json = service.values.get(response_id.removeprefix("resp_"), lasting=True) or {}
    is_complete = response_id.startswith("resp_") and value.get("response") is not None
    if not is_complete or value.get("tenant") != tenant:
        message = "there is no response with this id; send the whole conversation as input"
        raise ApiError(404, message, code="no_response")
    return value


@contextmanager
def _storing() -> Iterator[None]:
    """Convert errors of the store, whose paths clients need not know."""
    try:
        yield
    except StateError as error:
        message = "the server cannot store responses at present; try again later, or send store:"
        raise ApiError(507, f"{message} false", code="not_stored") from error


@dataclass
class ResponseExchange:
    """A request to `/v1/responses` and its reply.

    Attributes:
        chat: the chat request and its reply.
        request: the request.
        tenant: the client.
        converted: the request as a chat request, with the conversation before the reply.
        id: the id of the response.
        n_events: number of events that were sent.
    """

    chat: ChatExchange
    request: ResponseRequest
    tenant: str
    converted: ConvertedRequest
    id: str = field(default_factory=lambda: f"resp_{uuid4().hex}")
    n_events: int = 0

    @property
    def reply(self) -> ReplyParser:
        """The only reply."""
        return self.chat.replies[0]

    @property
    def status(self) -> str:
        """The status after the end of the reply."""
        return "incomplete" if self.reply.finish_reason == "length" else "completed"

    async def body(self, events: EventStream) -> Json:
        """Return the whole response, and store it."""
        await self.chat.read_all(events)
        await run_in_threadpool(self._store)
        return self._body(self.status)

    async def chunks(self, events: EventStream) -> AsyncGenerator[Json, None]:
        """Yield the numbered events of a streamed response, and store the response."""
        async with aclosing(self._events(events)) as all_events:
            async for event in all_events:
                yield self._numbered(event)
        await run_in_threadpool(self._store)
        body = self._body(self.status)
        yield self._numbered({"type": f"response.{self.status}", "response": body})

    def error(self, error: ApiError) -> Json:
        """Return the event for an error within a stream."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        failed = {"status": "failed", "error": {"code": code, "message": str(error)}}
        body = self._body("in_progress") | failed
        return self._numbered({"type": "response.failed", "response": body})

    def _numbered(self, event: Json) -> Json:
        """Return an event with its number."""
        self.n_events += 1
        return event | {"sequence_number": self.n_events - 1}

    async def _events(self, events: EventStream) -> AsyncGenerator[Json, None]:
        """Yield all events of a streamed response but the last."""
        body = self._body("in_progress")
        yield {"type": "response.created", "response": body}
        yield {"type": "response.in_progress", "response": body}
        items = ItemEvents(self.reply, self.id, self.converted.tools)
        async with aclosing(self.chat.deltas(events)) as all_deltas:
            async for _, deltas in all_deltas:
                for delta in deltas:
                    for event in items.push(delta):
                        yield event
        for event in items.finish(self.status):
            yield event

    def reserve(self) -> None:
        """Store the conversation before its reply, so that a full disk is found in time.

        Raises:
            ApiError: if it cannot be stored.
        """
        self._put(self.converted.messages, None)

    def _store(self) -> None:
        """Store the conversation, for requests with this id as `previous_response_id`."""
        self._put([*self.converted.messages, self.reply.body], self._body(self.status))

    def _put(self, messages: list[Json], response: Json | None) -> None:
        if self.request.store is not False:
            value = {"tenant": self.tenant, "messages": messages, "response": response}
            key = self.id.removeprefix("resp_")
            with _storing():
                self.chat.service.values.put_now(key, value, owner=self.tenant)

    def _body(self, status: str) -> Json:
        """Return the response with a status: "in_progress", or that after the end."""
        request = self.request
        is_done = status != "in_progress"
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.chat.created,
            "completed_at": now() if is_done else None,
            "status": status,
            "error": None,
            "incomplete_details": details,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": self.chat.start.model,
            "output": items_of(self.reply, self.id, self.converted.tools, status)
            if is_done
            else [],
            "parallel_tool_calls": request.parallel_tool_calls is True,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": self.chat.request.reasoning_effort, "summary": None},
            "store": request.store is not False,
            "temperature": request.temperature,
            "text": {"format": {"type": "text"}} | _given(request.text),
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": self._usage() if is_done else None,
            "user": request.user,
            "metadata": request.metadata or {},
        }

    def _usage(self) -> Json:
        usage = self.chat.usage
        reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": usage["total_tokens"],
        }


def _given(options: TextOptions | None) -> Json:
    """Return the options that a request gives."""
    return {} if options is None else options.model_dump(exclude_none=True)
