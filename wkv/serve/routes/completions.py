"""`POST /v1/completions`: continuations of texts or token ids."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from wkv.batching import ChoiceDone, Event, PrefillDone, Request, TextEvent
from wkv.errors import InputError
from wkv.inference.generate import MAX_TOKENS
from wkv.inference.model import Model
from wkv.inference.prefill import Prompt, prompt_ids
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import DraftCounts
from wkv.models.state import State
from wkv.serve.build_constraints import logits_processors_of
from wkv.serve.ignored_fields import check_ignored, with_ignored
from wkv.serve.middleware import tenant_of
from wkv.serve.parse_reply import MIN_LOGPROB
from wkv.serve.prompt_logprobs import PromptLogprob, prompt_logprobs
from wkv.serve.protocol.errors import ApiError, naming
from wkv.serve.protocol.requests import MAX_CHARACTERS, CompletionRequest
from wkv.serve.protocol.responses import TextCompletion, now, usage_body
from wkv.serve.read_body import BodyRoute
from wkv.serve.scheduler_thread import EventStream
from wkv.serve.service import Service
from wkv.serve.stream_reply import send_reply, stream_documentation, until_disconnect
from wkv.tokenizers import Tokenizer
from wkv.tokenizers.interface import StreamDecoder

Json = dict[str, Any]

MAX_CHOICES = 1024


def routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=BodyRoute)
    documentation = stream_documentation(TextCompletion)

    @router.post("/v1/completions", response_model=TextCompletion, responses=documentation)
    async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
        """Continue texts."""
        check_ignored(service, body.ignored)
        exchange = await run_in_threadpool(prepare, service, body, tenant_of(http))
        if body.echo and body.logprobs is not None:
            task = prompt_logprobs(service.model, exchange.prompts)
            exchange.add_prompts(
                await until_disconnect(http, service.scheduler_thread.run_task(task))
            )
        events = service.scheduler_thread.submit(*exchange.prompts)
        response = await send_reply(http, exchange, events, stream=body.stream)
        return with_ignored(service, body.ignored, response)

    return router


def prepare(service: Service, body: CompletionRequest, tenant: str) -> "CompletionExchange":
    """Encode the prompts of a request, and build its constraints.

    Raises:
        ApiError, InputError, StateError: if the request is invalid.
    """
    start = service.conversation_start(body.state, tenant, body.model)
    model = service.model
    count = len(prompts_of(body.prompt)) * body.choices
    if count > MAX_CHOICES:
        message = f"the prompts times n are {count} choices, expected at most {MAX_CHOICES}"
        raise ApiError(400, message, param="n")
    prompts, texts = [], []
    sequences = ids_of(model, body.prompt, start.state, "prompt")
    for prompt, ids in zip(prompts_of(body.prompt), sequences, strict=True):
        texts.append(prompt if isinstance(prompt, str) else model.tokenizer.decode(ids))
        prompts.append(
            Request(
                ids=tuple(ids),
                sampling=body.sampling(Sampling()),
                max_tokens=service.max_tokens(body.max_tokens, MAX_TOKENS),
                stops=body.stops,
                choices=body.choices,
                tenant=start.tenant,
                start=start.state,
                logits_processors=logits_processors_of(body, model),
                top_logprobs=body.logprobs,
            )
        )
    if body.echo and sum(map(len, texts)) * body.choices > MAX_CHARACTERS:
        message = f"echo repeats more than {MAX_CHARACTERS} characters; leave it out, or lower n"
        raise ApiError(400, message, param="echo")
    choices = [TextReply(StreamDecoder(model.tokenizer)) for _ in range(count)]
    return CompletionExchange(service, body, prompts, start.model, texts, choices)


def prompts_of(prompt: Any) -> Sequence[Prompt]:
    """Return the prompts of a field that holds one prompt or several."""
    if isinstance(prompt, str) or all(isinstance(item, int) for item in prompt):
        return [prompt]
    return list(prompt)


def ids_of(model: Model, field: Any, state: State | None, param: str) -> list[list[int]]:
    """Return the ids of each prompt of a field after a state; `param` is the name of the field.

    Raises:
        ApiError: if a prompt is empty, or an id is not in the vocabulary; it names the prompt.
    """
    prompts = prompts_of(field)
    sequences = []
    for index, prompt in enumerate(prompts):
        with naming(param if prompt is field else f"{param}.{index}"):
            ids = prompt_ids(model, prompt, state)
            wrong = [token for token in ids if token >= model.config.vocab_size]
            if wrong:
                last = model.config.vocab_size - 1
                raise InputError(f"id {wrong[0]} is not in the vocabulary, 0 to {last}")
        sequences.append(ids)
    return sequences


@dataclass
class TextReply:
    """A continuation of a text.

    Attributes:
        decoder: decodes the tokens, to find their positions in the text.
        text: the text so far.
        tokens: number of sampled tokens.
        logprobs: those of the tokens, if the request asks for them; None for a first token that
            nothing precedes. A stream clears them.
        offset: position of the next token in the text of all tokens.
        finish_reason: the reason for the end; None before it.
    """

    decoder: StreamDecoder
    text: str = ""
    tokens: int = 0
    logprobs: list[PromptLogprob] = field(default_factory=list)
    offset: int = 0
    finish_reason: str | None = None


@dataclass
class CompletionExchange:
    """A completion request and its replies: `n` choices for each prompt, prompt by prompt.

    Attributes:
        service: the served model.
        request: the request.
        prompts: a request to the scheduler for each prompt.
        model: the name of the model or variant that was asked for.
        texts: the texts of the prompts.
        choices: the choices of all prompts.
        cached: number of prompt tokens whose state came from the cache.
        drafts: the drafts of the choices that have ended.
        id: the id of the response.
        created: seconds since 1970.
    """

    service: Service
    request: CompletionRequest
    prompts: list[Request]
    model: str
    texts: list[str]
    choices: list[TextReply]
    cached: int = 0
    drafts: DraftCounts = field(default_factory=DraftCounts)
    id: str = field(default_factory=lambda: f"cmpl-{uuid4().hex}")
    created: int = field(default_factory=now)

    @property
    def usage(self) -> Json:
        """The token counts so far, of all prompts."""
        prompt_tokens = sum(len(prompt.ids) for prompt in self.prompts)
        sampled = sum(choice.tokens for choice in self.choices)
        return usage_body(prompt_tokens, sampled, self.cached, self.drafts)

    def add_prompts(self, logprobs: Sequence[Sequence[PromptLogprob]]) -> None:
        """Add the logprobs of the prompts, whose text the choices repeat.

        An id that the model needs at the beginning, and that a prompt lacks, is not repeated.
        """
        end = self.service.model.tokenizer.end_of_text
        given = prompts_of(self.request.prompt)
        for number, (found, prompt) in enumerate(zip(logprobs, given, strict=True)):
            if found[0][0] == end and (isinstance(prompt, str) or prompt[0] != end):
                found = found[1:]
            first = number * self.request.choices
            for choice in self.choices[first : first + self.request.choices]:
                choice.logprobs += found

    async def body(self, events: EventStream) -> Json:
        """Return the whole response."""
        async with aclosing(self._pieces(events)) as pieces:
            async for _ in pieces:
                pass
        return await run_in_threadpool(self._whole)

    def _whole(self) -> Json:
        """Return the response after the end of all replies."""
        choices = [self._choice(index, choice.text) for index, choice in enumerate(self.choices)]
        return self._head() | {"choices": choices, "usage": self.usage}

    async def chunks(self, events: EventStream) -> AsyncGenerator[Json, None]:
        """Yield the chunks of a streamed response; the usage comes last, if requested."""
        options = self.request.stream_options
        head = self._head()
        async with aclosing(self._pieces(events)) as pieces:
            async for index, text in pieces:
                choice = self.choices[index]
                if text or choice.logprobs or choice.finish_reason is not None:
                    chunk = head | {"choices": [self._choice(index, text)]}
                    choice.logprobs.clear()
                    if options is not None and options.continuous_usage_stats:
                        chunk["usage"] = self.usage
                    yield chunk
        if options is not None and options.include_usage:
            yield head | {"choices": [], "usage": self.usage}

    async def _pieces(self, events: EventStream) -> AsyncGenerator[tuple[int, str], None]:
        """Yield the number of a choice and what an event adds to its text."""
        try:
            async for number, event in events:
                for piece in self._take(number, event):
                    yield piece
        finally:
            events.close()

    def _take(self, number: int, event: Event) -> Iterator[tuple[int, str]]:
        """Add an event of a prompt; yields what it adds to the texts."""
        first = number * self.request.choices
        if isinstance(event, PrefillDone):
            self.cached += event.cached
            self.service.metrics.cached_tokens.inc(event.cached)
            if self.request.echo:
                for index in range(first, first + self.request.choices):
                    self.choices[index].text = self.texts[number]
                    yield index, self.texts[number]
        elif isinstance(event, TextEvent):
            choice = self.choices[first + event.choice]
            choice.text += event.text
            choice.tokens += event.token is not None
            if event.logprobs is not None:
                choice.logprobs.append((event.logprobs.token, event.logprobs))
            yield first + event.choice, event.text
        elif isinstance(event, ChoiceDone):
            choice = self.choices[first + event.choice]
            choice.finish_reason = event.finish_reason
            self.service.metrics.generated_tokens.inc(choice.tokens)
            self.drafts.add(event.drafts)
            yield first + event.choice, ""

    def _choice(self, index: int, text: str) -> Json:
        choice = self.choices[index]
        has_logprobs = self.request.logprobs is not None
        tokenizer = self.service.model.tokenizer
        return {
            "index": index,
            "text": text,
            "logprobs": _logprobs_body(choice, tokenizer) if has_logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def _head(self) -> Json:
        """Return the fields with which every response and chunk begins."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }


def _logprobs_body(choice: TextReply, tokenizer: Tokenizer) -> Json:
    """Return the `logprobs` of a choice, in the older format of OpenAI's API."""
    body: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token, sampled in choice.logprobs:
        text = _token_text(token, tokenizer)
        body["tokens"].append(text)
        body["text_offset"].append(choice.offset)
        choice.offset += len(choice.decoder.push(token))
        if sampled is None:
            body["token_logprobs"].append(None)
            body["top_logprobs"].append(None)
            continue
        logprob = max(sampled.logprob, MIN_LOGPROB)
        top = {
            _token_text(one.token, tokenizer): max(one.logprob, MIN_LOGPROB)
            for one in sampled.top_logprobs
        }
        body["token_logprobs"].append(logprob)
        body["top_logprobs"].append(top | {text: logprob})
    return body


def _token_text(token: int, tokenizer: Tokenizer) -> str:
    """Return the text of a token; of one that is not UTF-8, all bytes, as the OpenAI API does."""
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
