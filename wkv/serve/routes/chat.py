"""`POST /v1/chat/completions`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from wkv.batching import ChoiceDone, Event, PrefillDone, Request, TextEvent
from wkv.prompting.template import EFFORTS, Thinking
from wkv.serve.engine import EventStream
from wkv.serve.errors import ApiError
from wkv.serve.event_stream import STREAM, now, streamed, usage_body, while_listened
from wkv.serve.parse_reply import Reply, chances_body
from wkv.serve.render import ChatPrompt, Start
from wkv.serve.requests import ChatRequest
from wkv.serve.response_format import ReplyFormat, messages_of, response_format_of
from wkv.serve.sampling_params import check_model, logits_processors_of, sampling_of, stops_of
from wkv.serve.service import Service, tenant_of

Json = dict[str, Any]


@dataclass
class Chat:
    """A chat request on its way.

    Attributes:
        service: what answers.
        body: what was asked.
        start: what the messages follow.
        prompt: what is read.
        replies: one for each choice.
        cached: tokens of the prompt that were not read again.
        id: of the answer.
    """

    service: Service
    body: ChatRequest
    start: Start
    prompt: ChatPrompt
    replies: list[Reply]
    cached: int = 0
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=now)

    @property
    def usage(self) -> Json:
        """Tokens so far."""
        drawn = sum(len(reply.token_ids) for reply in self.replies)
        thought = sum(reply.reasoning_tokens for reply in self.replies)
        details = {"completion_tokens_details": {"reasoning_tokens": thought}}
        return usage_body(len(self.prompt.ids), drawn, self.cached) | details

    def take(self, event: Event) -> tuple[Reply, list[Json]] | None:
        """What an event adds to which reply."""
        if isinstance(event, PrefillDone):
            self.cached = event.cached
            self.service.metrics.cached_tokens.inc(event.cached)
        elif isinstance(event, TextEvent):
            return self.replies[event.choice], self.replies[event.choice].push(event)
        elif isinstance(event, ChoiceDone):
            reply = self.replies[event.choice]
            deltas = reply.finish(event.finish_reason)
            self.remember(reply)
            return reply, deltas
        return None

    def remember(self, reply: Reply) -> None:
        """Remember a reply for the next turn."""
        self.service.metrics.generated_tokens.inc(len(reply.token_ids))
        if reply.token_ids and reply.is_whole:
            prompts = self.service.prompts
            told = reply.message, reply.token_ids, reply.characters
            prompts.remember(self.start, self.prompt, *told)

    def remember_unfinished(self) -> None:
        """Remember what was said before the client stopped listening."""
        for reply in self.replies:
            if reply.finish_reason is None:
                reply.finish("stop")
                self.remember(reply)


def routes(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", responses=STREAM)
    async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
        """Answer a conversation."""
        check_model(body.model, service.settings.name)
        chat, request = await run_in_threadpool(prepare, service, body, tenant_of(http))
        answers = service.submit(request)
        events = events_of(chat, answers)
        if body.stream:
            return streamed(_chunks(chat, events), answers.close)
        try:
            return JSONResponse(await while_listened(http, _whole(chat, events)))
        finally:
            answers.close()

    return router


def prepare(service: Service, body: ChatRequest, tenant: str) -> tuple[Chat, Request]:
    """What is read and how the answer is drawn.

    Raises:
        ApiError, InputError, StateError: if it cannot be answered.
    """
    start = service.start_of(body.state, tenant)
    form = response_format_of(body, service.grammars)
    thinking = Thinking.PLAIN if form.grammar else _thinking(service, body.reasoning_effort)
    messages = messages_of(body.messages, form)
    prompt = service.prompts.reply_to(messages, start, thinking, form.assistant_prefix)
    choices = body.n or 1
    limit = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    preset = service.preset
    request = Request(
        ids=prompt.ids,
        sampling=sampling_of(body, preset.sampling),
        max_tokens=service.most_tokens(limit, preset.max_tokens),
        stops=(*stops_of(body), *_own_stops(service, body, form, thinking)),
        choices=choices,
        message_boundaries=prompt.message_boundaries,
        tenant=start.tenant,
        start=start.state,
        logits_processors=logits_processors_of(body, service.model, form.grammar),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    goes_on = body.messages[-1].role == "assistant" and bool(messages[-1].text.strip())
    replies = [Reply(prompt.assistant_prefix, goes_on, form) for _ in range(choices)]
    return Chat(service, body, start, prompt, replies), request


def _thinking(service: Service, effort: str | None) -> Thinking:
    """How a reply begins, for an effort that was asked for.

    Raises:
        ApiError: for a model that cannot think.
    """
    if service.thinks:
        return EFFORTS[effort]
    if effort in (None, "none", "minimal"):
        return Thinking.PLAIN
    message = "this model was not trained to think; leave reasoning_effort out"
    raise ApiError(400, message, param="reasoning_effort")


def _own_stops(
    service: Service, body: ChatRequest, form: ReplyFormat, thinking: Thinking
) -> tuple[str, ...]:
    """Where a reply ends by itself: where a turn does, or where its grammar is complete."""
    if form.grammar is not None:
        return service.grammars.stops
    return () if body.ignore_eos else service.turn_stops(thinking)


async def events_of(chat: Chat, answers: EventStream) -> AsyncGenerator[Event, None]:
    """All that happens to a request; whoever stops listening ends it."""
    try:
        async for _, event in answers:
            yield event
    finally:
        answers.close()
        chat.remember_unfinished()


async def _whole(chat: Chat, events: AsyncGenerator[Event, None]) -> Json:
    """The whole answer."""
    async with aclosing(events):
        async for event in events:
            chat.take(event)
    choices = []
    for index, reply in enumerate(chat.replies):
        top_logprobs = chances_body(reply.top_logprobs, chat.service.model.tokenizer)
        choices.append(
            {
                "index": index,
                "message": reply.body,
                "logprobs": top_logprobs if chat.body.logprobs else None,
                "finish_reason": reply.finish_reason,
            }
        )
    return _answer(chat, "chat.completion") | {"choices": choices, "usage": chat.usage}


async def _chunks(chat: Chat, events: AsyncGenerator[Event, None]) -> AsyncGenerator[Json, None]:
    """The answer as chunks; the last one tells the usage if that is wanted."""
    options = chat.body.stream_options
    wants_usage = options is not None and options.include_usage
    always = options is not None and options.continuous_usage_stats
    shape = _answer(chat, "chat.completion.chunk")

    def chunk(reply: Reply, delta: Json, reason: str | None = None) -> Json:
        choice: Json = {"index": chat.replies.index(reply), "delta": delta, "logprobs": None}
        if reply.top_logprobs:
            choice["logprobs"] = chances_body(reply.top_logprobs, chat.service.model.tokenizer)
            reply.top_logprobs.clear()
        choice["finish_reason"] = reason
        usage = chat.usage if always else None
        return shape | {"choices": [choice]} | ({"usage": usage} if wants_usage or always else {})

    async with aclosing(events):
        async for event in events:
            if isinstance(event, PrefillDone):
                chat.take(event)
                for reply in chat.replies:
                    yield chunk(reply, {"role": "assistant", "content": ""})
                continue
            taken = chat.take(event)
            if taken is None:
                continue
            reply, deltas = taken
            if not deltas and reply.top_logprobs:
                deltas = [{"content": ""}]
            for delta in deltas:
                yield chunk(reply, delta)
            if reply.finish_reason is not None:
                yield chunk(reply, {}, reply.finish_reason)
    if wants_usage:
        yield shape | {"choices": [], "usage": chat.usage}


def _answer(chat: Chat, kind: str) -> Json:
    """What all answers begin with."""
    return {
        "id": chat.id,
        "object": kind,
        "created": chat.created,
        "model": chat.service.settings.name,
        "system_fingerprint": None,
    }
