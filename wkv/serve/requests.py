"""The bodies of requests: what each may hold, and within which bounds.

A field that is not here is refused by its name. Fields that change nothing are here all the same
where clients send them by themselves: `user`, `store`, `metadata`, `service_tier`, and the like.
Lists are given up at their first mistake: an error for each of a million things would stop the
event loop.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

MOST_TOKENS = 1_000_000
MOST_TEXT = 2**24
MOST_STOPS = 16
MOST_MEMBERS = 1024

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Ids = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


def _few(value: Any) -> Any:
    """An object without too many members, which is seen before each of them is looked at."""
    if isinstance(value, dict) and len(value) > MOST_MEMBERS:
        raise ValueError(f"there are {len(value)} members, expected at most {MOST_MEMBERS}")
    return value


def _is_text(value: dict[str, Any]) -> dict[str, Any]:
    """An object that can be told again: without half characters."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("there is a lone surrogate, which is no character; remove it") from error
    return value


Object = Annotated[dict[str, Any], AfterValidator(_is_text)]


class Body(BaseModel):
    """A body: nothing beyond its fields, no number for a text, and no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """Leave out fields that are unknown and null: clients send back what they were sent."""
        if not isinstance(_few(value), dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: one for key, one in value.items() if one is not None or key in known}


class StreamOptions(Body):
    """What a stream tells beside the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool | None = None


class Ignored(Body):
    """What clients send by themselves and what means nothing here."""

    user: Text | None = None
    store: bool | None = None
    metadata: Object | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class Drawing(Ignored):
    """How tokens are drawn; what is left out is the model's own way, as /v1/models tells it.

    `penalty_decay` is RWKV's: how the frequency penalty of a token fades with each token after it.
    The nucleus (`top_p`) is taken before the temperature, as everywhere with RWKV.
    """

    model: Text | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(fail_fast=True, max_length=MOST_STOPS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=0, le=2**20)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    penalty_decay: Probability | None = None
    logit_bias: Annotated[dict[str, Bias], BeforeValidator(_few)] | None = None
    ignore_eos: bool | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    state: Annotated[str, Field(max_length=100)] | None = None


class TextPart(Body):
    """A part of a message; only texts can be read."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class FunctionCall(Body):
    """A call that an assistant made: the tool's name, and JSON of its arguments."""

    name: Annotated[str, Field(max_length=64)]
    arguments: Text


class ToolCall(Body):
    """One of an assistant's calls."""

    id: Annotated[str, Field(max_length=100)]
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class ChatMessage(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Annotated[list[TextPart], Field(fail_fast=True, max_length=1000)] | None = None
    name: Annotated[str, Field(max_length=100)] | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None  # what other servers call it
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=100)] | None = None
    tool_call_id: Annotated[str, Field(max_length=100)] | None = None

    @property
    def text(self) -> str:
        """The parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


Messages = Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=10_000)]


class JsonSchema(Body):
    """A schema that a reply must follow."""

    name: Annotated[str, Field(max_length=64)] = "reply"
    description: Text | None = None
    strict: bool | None = None
    schema_: Object = Field(default_factory=dict, alias="schema")


class ResponseFormat(Body):
    """What form a reply has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(Drawing):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Object], Field(fail_fast=True, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Object | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


class CompletionRequest(Drawing):
    """`POST /v1/completions`: a text to go on with, as it is."""

    prompt: (
        Text
        | Annotated[list[TokenId], Field(fail_fast=True, min_length=1, max_length=MOST_TEXT)]
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=128)]
        | Annotated[list[Ids], Field(fail_fast=True, max_length=128)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] | None = None


class ResponseRequest(Ignored):
    """`POST /v1/responses`: what is not here is refused, and so are tools that are no functions."""

    model: Text | None = None
    input: Text | Annotated[list[Object], Field(fail_fast=True, min_length=1, max_length=10_000)]
    instructions: Text | None = None
    previous_response_id: Annotated[str, Field(max_length=100)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    tools: Annotated[list[Object], Field(fail_fast=True, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | Object | None = None
    parallel_tool_calls: bool | None = None
    text: Object | None = None
    reasoning: Object | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    background: Literal[False] | None = None


class EmbeddingRequest(Ignored):
    """`POST /v1/embeddings`."""

    model: Text | None = None
    input: (
        Text
        | Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
        | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=256)]
        | Annotated[list[Ids], Field(fail_fast=True, max_length=256)]
    )
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class TokenizeRequest(Body):
    """`POST /tokenize`."""

    model: Text | None = None
    content: Text


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model: Text | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True, max_length=MOST_TEXT)]


class StateRequest(Body):
    """`POST /v1/states`: messages, or a text as it is, to be read and kept."""

    messages: (
        Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=10_000)] | None
    ) = None
    prompt: Text | None = None
    state: Annotated[str, Field(max_length=100)] | None = None
