"""`POST /v1/messages`: Anthropic's Messages API. Requests are handled like chat requests."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from wkv.batching import Request
from wkv.serve.anthropic_reply import BlockEvents, blocks_of, stop_reason
from wkv.serve.anthropic_request import chat_request, has_cache_border
from wkv.serve.ignored_fields import check_ignored, with_ignored
from wkv.serve.middleware import tenant_of
from wkv.serve.parse_reply import ReplyParser
from wkv.serve.protocol.anthropic import (
    MESSAGE_EVENTS,
    CountRequest,
    MessageObject,
    MessagesRequest,
    TokenCount,
)
from wkv.serve.protocol.errors import ApiError
from wkv.serve.read_body import BodyRoute
from wkv.serve.routes.chat import ChatExchange, prepare
from wkv.serve.scheduler_thread import EventStream
from wkv.serve.service import Service
from wkv.serve.stream_reply import send_reply, stream_documentation

Json = dict[str, Any]


def routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/v1/messages", route_class=BodyRoute)
    documentation = stream_documentation(*MESSAGE_EVENTS)

    @router.post("", response_model=MessageObject, responses=documentation)
    async def create(body: MessagesRequest, http: HttpRequest) -> Response:
        """Reply to a conversation, in the format of Anthropic's API."""
        check_ignored(service, body.ignored)
        exchange, request = await run_in_threadpool(_prepare, service, body, tenant_of(http))
        events = service.scheduler_thread.submit(request)
        response = await send_reply(http, exchange, events, stream=body.stream, last=None)
        return with_ignored(service, body.ignored, response)

    @router.post("/count_tokens", response_model=TokenCount)
    async def count(body: CountRequest, http: HttpRequest) -> Response:
        """Return the number of tokens that a request would read."""

        def counted() -> int:
            _, request = prepare(
                service, chat_request(body, thinks=service.thinks), tenant_of(http)
            )
            return len(request.ids)

        tokens = await run_in_threadpool(counted)
        return with_ignored(service, body.ignored, JSONResponse({"input_tokens": tokens}))

    return router


def _prepare(
    service: Service, body: MessagesRequest, tenant: str
) -> tuple["MessageExchange", Request]:
    """Convert a request to a chat request, and prepare that.

    Raises:
        ApiError, InputError, StateError: if the request is invalid.
    """
    chat, request = prepare(service, chat_request(body, thinks=service.thinks), tenant)
    return MessageExchange(chat, body, len(request.ids)), request


@dataclass
class MessageExchange:
    """A request to `/v1/messages` and its reply.

    Attributes:
        chat: the chat request and its reply.
        request: the request.
        prompt_tokens: the number of tokens of the prompt.
        id: the id of the message.
    """

    chat: ChatExchange
    request: MessagesRequest
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"msg_{uuid4().hex}")

    @property
    def ping(self) -> Json:
        """The event that is sent while the prompt is read."""
        return {"type": "ping"}

    @property
    def reply(self) -> ReplyParser:
        """The only reply."""
        return self.chat.replies[0]

    async def body(self, events: EventStream) -> Json:
        """Return the whole message."""
        await self.chat.read_all(events)
        reason, stop = stop_reason(self.reply, self._stops)
        content = [] if self.request.max_tokens == 0 else blocks_of(self.reply)
        end = {"stop_reason": reason, "stop_sequence": stop}
        return self._head() | {"content": content, **end, "usage": self._usage()}

    async def chunks(self, events: EventStream) -> AsyncGenerator[Json, None]:
        """Yield the events of a streamed message. The first one precedes the prompt."""
        yield {"type": "message_start", "message": self._head() | {"usage": self._usage()}}
        blocks = BlockEvents()
        async with aclosing(self.chat.deltas(events)) as all_deltas:
            async for _, deltas in all_deltas:
                for delta in deltas:
                    for event in blocks.push(delta):
                        yield event
        if self.request.max_tokens > 0:
            for event in blocks.finish():
                yield event
        reason, stop = stop_reason(self.reply, self._stops)
        end = {"stop_reason": reason, "stop_sequence": stop}
        yield {"type": "message_delta", "delta": end, "usage": self._usage()}
        yield {"type": "message_stop"}

    def error(self, error: ApiError) -> Json:
        """Return the event for an error within a stream."""
        return error.anthropic_body

    @property
    def _stops(self) -> tuple[str, ...]:
        return tuple(self.request.stop_sequences or ())

    def _head(self) -> Json:
        """Return a message without content."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.chat.start.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def _usage(self) -> Json:
        """Return the token counts so far."""
        cached = self.chat.cached
        new = 0
        if has_cache_border(self.request):
            new = max([0, *(end - cached for end in self.chat.prompt.message_boundaries)])
        return {
            "input_tokens": self.prompt_tokens - cached - new,
            "cache_creation_input_tokens": new,
            "cache_read_input_tokens": cached,
            "output_tokens": len(self.reply.token_ids),
            "output_tokens_details": {"thinking_tokens": self.reply.reasoning_tokens},
        }
