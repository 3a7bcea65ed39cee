"""`POST /v1/completions`: texts or ids to go on with, as they are."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from wkv.batching import ChoiceDone, Event, PrefillDone, Request, TextEvent
from wkv.inference.generate import MAX_TOKENS
from wkv.inference.model import Model
from wkv.inference.prefill import Prompt, prompt_ids
from wkv.inference.sampling import SampledToken, Sampling
from wkv.models.state import State
from wkv.serve.engine import EventStream
from wkv.serve.errors import ApiError
from wkv.serve.event_stream import STREAM, now, streamed, usage_body, while_listened
from wkv.serve.requests import CompletionRequest
from wkv.serve.sampling_params import check_model, logits_processors_of, sampling_of, stops_of
from wkv.serve.service import Service, tenant_of
from wkv.tokenizers import Tokenizer

Json = dict[str, Any]


@dataclass
class Choice:
    """One continuation while it comes."""

    text: str = ""
    tokens: int = 0
    top_logprobs: list[SampledToken] = field(default_factory=list)
    offset: int = 0
    finish_reason: str | None = None


@dataclass
class Completion:
    """A completion request on its way: `n` choices for each of its prompts, prompt by prompt."""

    service: Service
    body: CompletionRequest
    requests: list[Request]
    texts: list[str]
    choices: list[Choice]
    cached: int = 0
    id: str = field(default_factory=lambda: f"cmpl-{uuid4().hex}")
    created: int = field(default_factory=now)

    @property
    def usage(self) -> Json:
        """Tokens so far, of all prompts."""
        read = sum(len(request.ids) for request in self.requests)
        return usage_body(read, sum(choice.tokens for choice in self.choices), self.cached)


def routes(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter()

    @router.post("/v1/completions", responses=STREAM)
    async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
        """Continue texts."""
        check_model(body.model, service.settings.name)
        completion = await run_in_threadpool(prepare, service, body, tenant_of(http))
        answers = service.submit(*completion.requests)
        pieces = _pieces(completion, answers)
        if body.stream:
            return streamed(_chunks(completion, pieces), answers.close)
        try:
            return JSONResponse(await while_listened(http, _whole(completion, pieces)))
        finally:
            answers.close()

    return router


def prepare(service: Service, body: CompletionRequest, tenant: str) -> Completion:
    """What is read, and how it goes on.

    Raises:
        ApiError, InputError, StateError: if it cannot be done.
    """
    start = service.start_of(body.state, tenant)
    if body.echo and body.logprobs is not None:
        raise ApiError(
            400, "echo cannot be had together with logprobs; leave one out", param="echo"
        )
    model, choices = service.model, body.n or 1
    requests, texts = [], []
    for prompt in prompts_of(body.prompt):
        ids = ids_of(model, prompt, start.state, "prompt")
        texts.append(prompt if isinstance(prompt, str) else model.tokenizer.decode(ids))
        requests.append(
            Request(
                ids=tuple(ids),
                sampling=sampling_of(body, Sampling()),
                max_tokens=service.most_tokens(body.max_tokens, MAX_TOKENS),
                stops=stops_of(body),
                choices=choices,
                tenant=start.tenant,
                start=start.state,
                logits_processors=logits_processors_of(body, model),
                top_logprobs=body.logprobs,
            )
        )
    made = [Choice() for _ in range(len(requests) * choices)]
    return Completion(service, body, requests, texts, made)


def prompts_of(prompt: Any) -> Sequence[Prompt]:
    """The prompts of a body: one, or several."""
    if isinstance(prompt, str) or all(isinstance(item, int) for item in prompt):
        return [prompt]
    return list(prompt)


def ids_of(model: Model, prompt: Prompt, state: State | None, param: str) -> list[int]:
    """The ids of a prompt after a state, for the field that holds it.

    Raises:
        ApiError: for an id that is not in the vocabulary.
        InputError: for an empty prompt.
    """
    ids = prompt_ids(model, prompt, state)
    wrong = [token for token in ids if token >= model.config.vocab_size]
    if wrong:
        raise ApiError(400, f"id {wrong[0]} is not in the vocabulary", param=param)
    return ids


async def _pieces(
    completion: Completion, answers: EventStream
) -> AsyncGenerator[tuple[int, str], None]:
    """Which choice goes on with which text."""
    try:
        async for number, event in answers:
            for piece in _taken(completion, number, event):
                yield piece
    finally:
        answers.close()


def _taken(completion: Completion, number: int, event: Event) -> Iterator[tuple[int, str]]:
    """What an event of a prompt adds to which choice."""
    metrics = completion.service.metrics
    per_prompt = completion.body.n or 1
    first = number * per_prompt
    if isinstance(event, PrefillDone):
        completion.cached += event.cached
        metrics.cached_tokens.inc(event.cached)
        if completion.body.echo:
            for index in range(first, first + per_prompt):
                completion.choices[index].text = completion.texts[number]
                yield index, completion.texts[number]
    elif isinstance(event, TextEvent):
        choice = completion.choices[first + event.choice]
        choice.text += event.text
        choice.tokens += event.token is not None
        if event.logprobs is not None:
            choice.top_logprobs.append(event.logprobs)
        yield first + event.choice, event.text
    elif isinstance(event, ChoiceDone):
        choice = completion.choices[first + event.choice]
        choice.finish_reason = event.finish_reason
        metrics.generated_tokens.inc(choice.tokens)
        yield first + event.choice, ""


async def _whole(completion: Completion, pieces: AsyncGenerator[tuple[int, str], None]) -> Json:
    async with aclosing(pieces):
        async for _ in pieces:
            pass
    choices = [_choice(completion, index, c.text) for index, c in enumerate(completion.choices)]
    return _answer(completion) | {"choices": choices, "usage": completion.usage}


async def _chunks(
    completion: Completion, pieces: AsyncGenerator[tuple[int, str], None]
) -> AsyncGenerator[Json, None]:
    options = completion.body.stream_options
    shape = _answer(completion)
    async with aclosing(pieces):
        async for index, text in pieces:
            choice = completion.choices[index]
            if text or choice.top_logprobs or choice.finish_reason is not None:
                chunk = shape | {"choices": [_choice(completion, index, text)]}
                choice.top_logprobs.clear()
                if options is not None and options.continuous_usage_stats:
                    chunk["usage"] = completion.usage
                yield chunk
    if options is not None and options.include_usage:
        yield shape | {"choices": [], "usage": completion.usage}


def _choice(completion: Completion, index: int, text: str) -> Json:
    choice = completion.choices[index]
    top_logprobs = None
    if completion.body.logprobs is not None:
        top_logprobs = _chances(choice, completion.service.model.tokenizer)
    return {
        "index": index,
        "text": text,
        "logprobs": top_logprobs,
        "finish_reason": choice.finish_reason,
    }


def _chances(choice: Choice, tokenizer: Tokenizer) -> Json:
    """The `logprobs` of a completion, in the older form of OpenAI's API."""
    tokens = [tokenizer.decode([drawn.token]) for drawn in choice.top_logprobs]
    offsets = []
    for token in tokens:
        offsets.append(choice.offset)
        choice.offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [max(drawn.logprob, -9999.0) for drawn in choice.top_logprobs],
        "top_logprobs": [
            {tokenizer.decode([c.token]): max(c.logprob, -9999.0) for c in drawn.top_logprobs}
            for drawn in choice.top_logprobs
        ],
        "text_offset": offsets,
    }


def _answer(completion: Completion) -> Json:
    return {
        "id": completion.id,
        "object": "text_completion",
        "created": completion.created,
        "model": completion.service.settings.name,
    }
