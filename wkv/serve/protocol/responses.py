"""Pydantic models of the response bodies and of streamed chunks, for the OpenAPI document.

Routes build dicts, so that no token pays for validation. A test validates the body of every route
against its model.
"""

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from wkv.inference.sequence import DraftCounts

Json = dict[str, Any]


class ResponseModel(BaseModel):
    """Base of all response models. Fields without a default occur in every response."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetails(ResponseModel):
    """An error: its message, its type, the path of the wrong field, and a code for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(ResponseModel):
    """The body of every error, and the last event of a stream that fails."""

    error: ErrorDetails


class Deleted(ResponseModel):
    """A confirmation that a stored object was deleted."""

    id: str
    object: Literal["response", "state"]
    deleted: Literal[True]


class InputTokens(ResponseModel):
    """The response of `POST /v1/responses/input_tokens`."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class CachedTokens(ResponseModel):
    """The number of prompt tokens whose state came from the cache."""

    cached_tokens: int


class ReasoningTokens(ResponseModel):
    """The number of tokens before the answer."""

    reasoning_tokens: int


class CompletionTokens(ReasoningTokens):
    """Also the drafted tokens that were accepted and rejected, in speculative decoding."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(ResponseModel):
    """The token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: CompletionTokens | None = None


class TokenLogprob(ResponseModel):
    """A token, its log probability and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class SampledTokenLogprob(TokenLogprob):
    """A sampled token and its most probable alternatives."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(ResponseModel):
    """The logprobs of a chat choice."""

    content: list[SampledTokenLogprob]
    refusal: None


class CalledFunction(ResponseModel):
    """The name of a called tool, and its arguments as JSON text."""

    name: str
    arguments: str


class MessageToolCall(ResponseModel):
    """A tool call of a reply."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ReplyMessage(ResponseModel):
    """The message of a chat choice; `reasoning` precedes the content."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[MessageToolCall] | None = None


class ChatChoice(ResponseModel):
    """A choice of a chat completion."""

    index: int
    message: ReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(ResponseModel):
    """The response of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChatChoice]
    usage: Usage


class FunctionDelta(ResponseModel):
    """The name of a called tool, or a piece of its arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(ResponseModel):
    """A piece of a tool call; the first one has an id."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatDelta(ResponseModel):
    """A piece of a reply."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(ResponseModel):
    """A piece of a choice."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"] | None


class ChatCompletionChunk(ResponseModel):
    """An event of a streamed chat completion."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: None
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextLogprobs(ResponseModel):
    """The logprobs of a text completion, in lists with one element for each token.

    The first token of a repeated prompt has none, because nothing precedes it.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(ResponseModel):
    """A choice of a text completion."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextCompletion(ResponseModel):
    """The response of `POST /v1/completions`, and an event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class Embedding(ResponseModel):
    """A vector, as numbers or as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(ResponseModel):
    """The token counts of an embedding request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(ResponseModel):
    """The response of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class SamplingValues(ResponseModel):
    """Default values of the sampling parameters."""

    temperature: float
    top_p: float
    top_k: int | None
    presence_penalty: float
    frequency_penalty: float
    penalty_decay: float


class ModelDetails(ResponseModel):
    """Properties of a model that the OpenAI API does not have."""

    generation: str
    n_layer: int
    n_embd: int
    vocab_size: int
    strategy: str
    engine: str
    thinks: bool
    state_bytes: int
    sampling: SamplingValues
    max_tokens: int
    presets: dict[str, SamplingValues]
    kind: Literal["state", "adapter"] | None = None


class ServedModel(ResponseModel):
    """The response of `GET /v1/models/{name}`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None = None
    type: Literal["model"]
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int
    max_tokens: int
    wkv: ModelDetails


class ModelList(ResponseModel):
    """The response of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ServedModel]
    has_more: bool
    first_id: str
    last_id: str


class SavedState(ResponseModel):
    """A state that a user saved."""

    id: str
    object: Literal["state"]
    name: str | None = None
    tokens: int
    bytes: int
    created: int


class StateList(ResponseModel):
    """The response of `GET /v1/states`."""

    object: Literal["list"]
    data: list[SavedState]


class Health(ResponseModel):
    """The response of `GET /health`: the status, and the numbers of sequences and requests."""

    status: Literal["ok", "closing", "failed"]
    writing: int
    reading: int
    queued: int
    tasks: int
    slots: int


class Tokens(ResponseModel):
    """The response of `POST /tokenize`."""

    tokens: list[int]
    count: int


class DetokenizedText(ResponseModel):
    """The response of `POST /detokenize`."""

    content: str


def usage_body(
    prompt: int, completion: int, cached: int, drafts: DraftCounts, reasoning: int = 0
) -> Json:
    """Return the token counts of a request as `Usage`."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "accepted_prediction_tokens": drafts.accepted,
            "rejected_prediction_tokens": drafts.drafted - drafts.accepted,
        },
    }


def now() -> int:
    """Return the time in seconds since 1970."""
    return int(time.time())
