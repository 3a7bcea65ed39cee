"""`/v1/responses`: a conversation whose past the server keeps, by the id of the last answer.

What is asked is written as a chat request, and answered like one; here is only the other form.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from wkv.batching import Event
from wkv.serve.errors import ApiError, validation_error
from wkv.serve.event_stream import STREAM, now, streamed, while_listened
from wkv.serve.parse_reply import Reply
from wkv.serve.requests import ChatRequest, ResponseRequest
from wkv.serve.response_items import ItemEvents, chat_fields, items_of, messages_of
from wkv.serve.routes.chat import Chat, events_of, prepare
from wkv.serve.sampling_params import check_model
from wkv.serve.service import Service, tenant_of

Json = dict[str, Any]

NAMES = {
    "messages": "input",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
}
"""Fields of a chat request, and what they are called here."""


@dataclass
class Answered:
    """A response on its way.

    Attributes:
        chat: what answers it.
        body: what was asked.
        messages: the whole conversation before the answer, as chat messages.
        id: of the response.
    """

    chat: Chat
    body: ResponseRequest
    messages: list[Json]
    id: str = field(default_factory=lambda: f"resp_{uuid4().hex}")

    @property
    def reply(self) -> Reply:
        """The one answer."""
        return self.chat.replies[0]

    @property
    def status(self) -> str:
        """How it has ended."""
        return "incomplete" if self.reply.finish_reason == "length" else "completed"

    def told(self, status: str) -> Json:
        """The response as it is told."""
        chat, body, reply = self.chat, self.body, self.reply
        status = self.status if status == "completed" else status
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        done = status in ("completed", "incomplete")
        return {
            "id": self.id,
            "object": "response",
            "created_at": chat.created,
            "completed_at": now() if done else None,
            "status": status,
            "error": None,
            "incomplete_details": cut,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": chat.service.settings.name,
            "output": items_of(reply, self.id, status) if done else [],
            "parallel_tool_calls": body.parallel_tool_calls is True,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
            "store": body.store is not False,
            "temperature": body.temperature,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": self._usage() if done else None,
            "user": body.user,
            "metadata": body.metadata or {},
        }

    def keep(self, tenant: str) -> None:
        """Keep the conversation, for whoever goes on from this id."""
        if self.body.store is not False:
            values = self.chat.service.values
            value = {
                "tenant": tenant,
                "messages": [*self.messages, self.reply.body],
                "response": self.told("completed"),
            }
            values.put(self.id.removeprefix("resp_"), value, at_once=True)

    def _usage(self) -> Json:
        usage = self.chat.usage
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        }


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/responses")

    @router.post("", responses=STREAM)
    async def make(body: ResponseRequest, http: HttpRequest) -> Response:
        """Answer, and keep the conversation."""
        check_model(body.model, service.settings.name)
        tenant = tenant_of(http)
        answered, request = await run_in_threadpool(_prepare, service, body, tenant)
        answers = service.submit(request)
        events = events_of(answered.chat, answers)
        if body.stream:
            return streamed(_stream(answered, events, tenant), answers.close, ends=None)
        try:
            return JSONResponse(await while_listened(http, _whole(answered, events, tenant)))
        finally:
            answers.close()

    @router.get("/{name}")
    async def fetch(name: str, http: HttpRequest) -> Response:
        """A response that was kept."""
        return JSONResponse(_kept(service, name, tenant_of(http))["response"])

    @router.delete("/{name}")
    async def delete(name: str, http: HttpRequest) -> Response:
        """Forget a response."""
        _kept(service, name, tenant_of(http))
        service.values.delete(name.removeprefix("resp_"))
        return JSONResponse({"id": name, "object": "response", "deleted": True})

    return router


def _prepare(service: Service, body: ResponseRequest, tenant: str) -> tuple[Answered, Any]:
    messages = messages_of(body)
    if body.previous_response_id is not None:
        kept = _kept(service, body.previous_response_id, tenant)
        messages = [*kept["messages"], *messages]
    fields = chat_fields(body, messages)
    try:
        asked = ChatRequest.model_validate(fields)
    except ValidationError as error:
        raise _by_own_names(validation_error(error.errors())) from error
    chat, request = prepare(service, asked, tenant)
    return Answered(chat, body, messages), request


def _by_own_names(error: ApiError) -> ApiError:
    """An error about the chat request, told by the names that a client of responses knows."""
    message, param = str(error), error.param
    for chat, own in NAMES.items():
        message = message.replace(chat, own)
        param = param and param.replace(chat, own)
    return ApiError(error.status, message, param=param, code=error.code)


def _kept(service: Service, name: str, tenant: str) -> Json:
    """What was kept of a response.

    Raises:
        ApiError: if there is none of that id, for this tenant.
    """
    value: Json | None = service.values.get(name.removeprefix("resp_"), lasting=True)
    if not name.startswith("resp_") or value is None or value.get("tenant") != tenant:
        raise ApiError(404, "there is no response of that id", code="no_response")
    return value


async def _whole(answered: Answered, events: AsyncGenerator[Event, None], tenant: str) -> Json:
    async with aclosing(events):
        async for event in events:
            answered.chat.take(event)
    await run_in_threadpool(answered.keep, tenant)
    return answered.told("completed")


async def _stream(
    answered: Answered, events: AsyncGenerator[Event, None], tenant: str
) -> AsyncGenerator[Json, None]:
    """The events of a streamed response, numbered."""
    number = 0
    steps = _steps(answered, events)
    async with aclosing(steps):
        async for step in steps:
            yield step | {"sequence_number": number}
            number += 1
    await run_in_threadpool(answered.keep, tenant)
    done = answered.told("completed")
    kind = f"response.{done['status']}"
    yield {"type": kind, "response": done, "sequence_number": number}


async def _steps(
    answered: Answered, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[Json, None]:
    begun = answered.told("in_progress")
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    items = ItemEvents(answered.reply, answered.id)
    async with aclosing(events):
        async for event in events:
            taken = answered.chat.take(event)
            for delta in taken[1] if taken else ():
                for step in items.told(delta):
                    yield step
    for step in items.rest(answered.status):
        yield step
