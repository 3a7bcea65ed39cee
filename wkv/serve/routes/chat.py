"""`POST /v1/chat/completions`: a chat request from its validated body to its response."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from wkv.batching import ChoiceDone, PrefillDone, Request, TextEvent
from wkv.inference.sequence import DraftCounts
from wkv.prompting.template import EFFORTS, Thinking
from wkv.serve.build_constraints import logits_processors_of, reply_format_of
from wkv.serve.chat_messages import messages_of
from wkv.serve.ignored_fields import check_ignored, with_ignored
from wkv.serve.middleware import tenant_of
from wkv.serve.parse_reply import ReplyParser, logprobs_body
from wkv.serve.protocol.errors import ApiError
from wkv.serve.protocol.requests import ChatRequest
from wkv.serve.protocol.responses import ChatCompletion, ChatCompletionChunk, now, usage_body
from wkv.serve.read_body import BodyRoute
from wkv.serve.render_prompt import ChatPrompt, ConversationStart
from wkv.serve.scheduler_thread import EventStream
from wkv.serve.service import Service
from wkv.serve.stream_reply import send_reply, stream_documentation

Json = dict[str, Any]


def routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=BodyRoute)
    documentation = stream_documentation(ChatCompletionChunk)

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=documentation)
    async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
        """Reply to a conversation."""
        check_ignored(service, body.ignored)
        chat, request = await run_in_threadpool(prepare, service, body, tenant_of(http))
        events = service.scheduler_thread.submit(request)
        response = await send_reply(http, chat, events, stream=body.stream)
        return with_ignored(service, body.ignored, response)

    return router


def prepare(service: Service, body: ChatRequest, tenant: str) -> tuple["ChatExchange", Request]:
    """Render the prompt of a request, and build its constraints.

    Raises:
        ApiError, InputError, StateError: if the request is invalid.
    """
    start = service.conversation_start(body.state, tenant, body.model)
    reply_format = reply_format_of(body, service.grammars.of(tenant))
    thinking = Thinking.PLAIN if reply_format.grammar else _thinking(service, body)
    messages = messages_of(body.messages, reply_format)
    prompt = service.renderer.render_prompt(
        messages, start, thinking, reply_format.assistant_prefix
    )
    stops = () if body.ignore_eos else service.turn_stops(thinking)
    if reply_format.grammar is not None:
        stops = service.grammars.stops
    request = Request(
        ids=prompt.ids,
        sampling=body.sampling(service.preset.sampling),
        max_tokens=service.max_tokens(body.token_limit, service.preset.max_tokens),
        stops=(*body.stops, *stops),
        choices=body.choices,
        message_boundaries=prompt.message_boundaries,
        tenant=start.tenant,
        start=start.state,
        logits_processors=logits_processors_of(body, service.model, reply_format.grammar),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prediction=_prediction(service, body, prompt),
    )
    continues = body.messages[-1].role == "assistant" and bool(messages[-1].text.strip())
    replies = [
        ReplyParser(prompt.assistant_prefix, continues, reply_format) for _ in range(body.choices)
    ]
    return ChatExchange(service, body, start, prompt, replies), request


def _prediction(service: Service, body: ChatRequest, prompt: ChatPrompt) -> tuple[int, ...]:
    """Return the tokens of a text that the client predicts; drafts are taken from it."""
    if body.prediction is None or service.scheduler_thread.scheduler.speculation is None:
        return ()
    space = "" if prompt.assistant_prefix else " "  # a reply follows "Assistant:" and a blank
    return tuple(service.model.tokenizer.encode(space + body.prediction.text))


def _thinking(service: Service, body: ChatRequest) -> Thinking:
    """Return the thinking mode of a request.

    Raises:
        ApiError: if the model cannot think.
    """
    effort = body.reasoning_effort
    if service.thinks:
        return EFFORTS[effort]
    if effort in (None, "none", "minimal"):
        return Thinking.PLAIN
    param = body.path("reasoning_effort")
    message = f"{param} is {effort!r}, but the model was not trained to think; leave it out"
    raise ApiError(400, message, param=param)


@dataclass
class ChatExchange:
    """A chat request and its replies.

    Attributes:
        service: the served model.
        request: the request.
        start: the start of the conversation.
        prompt: the prompt.
        replies: a parser for each choice.
        cached: number of prompt tokens whose state came from the cache.
        drafts: the drafts of the choices that have ended.
        id: the id of the response.
        created: seconds since 1970.
    """

    service: Service
    request: ChatRequest
    start: ConversationStart
    prompt: ChatPrompt
    replies: list[ReplyParser]
    cached: int = 0
    drafts: DraftCounts = field(default_factory=DraftCounts)
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=now)

    @property
    def usage(self) -> Json:
        """The token counts so far."""
        sampled = sum(len(reply.token_ids) for reply in self.replies)
        reasoning = sum(reply.reasoning_tokens for reply in self.replies)
        return usage_body(len(self.prompt.ids), sampled, self.cached, self.drafts, reasoning)

    async def body(self, events: EventStream) -> Json:
        """Return the whole response."""
        await self.read_all(events)
        return await run_in_threadpool(self._whole)

    def _whole(self) -> Json:
        """Return the response after the end of all replies."""
        choices = [
            {
                "index": index,
                "message": reply.body,
                "logprobs": self._logprobs(reply) if self.request.logprobs else None,
                "finish_reason": reply.finish_reason,
            }
            for index, reply in enumerate(self.replies)
        ]
        return self._head("chat.completion") | {"choices": choices, "usage": self.usage}

    async def chunks(self, events: EventStream) -> AsyncGenerator[Json, None]:
        """Yield the chunks of a streamed response; the usage comes last, if requested."""
        options = self.request.stream_options
        has_usage = options is not None and options.include_usage
        always = options is not None and options.continuous_usage_stats
        head = self._head("chat.completion.chunk")

        def chunk(index: int, delta: Json, finish_reason: str | None = None) -> Json:
            reply = self.replies[index]
            logprobs = self._logprobs(reply) if reply.logprobs else None
            reply.logprobs.clear()
            choice: Json = {"index": index, "delta": delta, "logprobs": logprobs}
            choice["finish_reason"] = finish_reason
            usage = {"usage": self.usage if always else None} if has_usage or always else {}
            return head | {"choices": [choice]} | usage

        async with aclosing(self.deltas(events)) as all_deltas:
            async for index, deltas in all_deltas:
                reply = self.replies[index]
                if not deltas and reply.logprobs:
                    deltas = [{"content": ""}]
                for delta in deltas:
                    yield chunk(index, delta)
                if reply.finish_reason is not None:
                    yield chunk(index, {}, reply.finish_reason)
        if has_usage:
            yield head | {"choices": [], "usage": self.usage}

    async def read_all(self, events: EventStream) -> None:
        """Read the replies to their end."""
        async with aclosing(self.deltas(events)) as deltas:
            async for _ in deltas:
                pass

    async def deltas(self, events: EventStream) -> AsyncGenerator[tuple[int, list[Json]], None]:
        """Yield the number of a choice and what an event adds to its reply.

        When the consumer stops early, the request is cancelled and the replies are remembered.
        """
        try:
            async for _, event in events:
                if isinstance(event, PrefillDone):
                    self.cached = event.cached
                    self.service.metrics.cached_tokens.inc(event.cached)
                    for index in range(len(self.replies)):
                        yield index, [{"role": "assistant", "content": ""}]
                elif isinstance(event, TextEvent):
                    yield event.choice, self.replies[event.choice].push(event)
                elif isinstance(event, ChoiceDone):
                    reply = self.replies[event.choice]
                    self.drafts.add(event.drafts)
                    reply.stop_string = event.stop_string
                    deltas = reply.finish(event.finish_reason)
                    self._remember(reply)
                    yield event.choice, deltas
        finally:
            events.close()
            for reply in self.replies:
                if reply.finish_reason is None:
                    reply.finish("stop")
                    self._remember(reply)

    def _remember(self, reply: ReplyParser) -> None:
        """Remember the ids of a reply for the next turn of the conversation."""
        self.service.metrics.generated_tokens.inc(len(reply.token_ids))
        if reply.token_ids and reply.is_whole:
            self.service.renderer.remember(
                self.start, self.prompt, reply.message, reply.token_ids, reply.characters
            )

    def _logprobs(self, reply: ReplyParser) -> Json:
        return logprobs_body(reply, self.service.model.tokenizer)

    def _head(self, kind: str) -> Json:
        """Return the fields with which every response and chunk begins."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.start.model,
            "system_fingerprint": None,
        }
