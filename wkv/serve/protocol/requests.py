"""Pydantic models of the request bodies, with the limits of each field.

A request with an unknown field is refused. Fields that have no effect are accepted if clients send
them by default, such as `user`, `store`, `metadata` and `service_tier`. Validation of a list stops
at its first error, because a million errors would take long. If a field accepts several types, the
value decides which of them is validated, so that the error is about the type that was meant.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from wkv.inference.sampling import Sampling
from wkv.serve.protocol.errors import Location, dotted, validation_error

MAX_TOKENS = 1_000_000
MAX_CHARACTERS = 2**24
MAX_STOPS = 16
MAX_PROMPTS = 128
MAX_INPUTS = 2048
MAX_METADATA = 2**14

SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "penalty_decay",
)

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenLimit = Annotated[int, Field(ge=-1, le=MAX_TOKENS)]
"""A largest number of tokens; -1 means no limit."""


def _text_or(expected: str, tags: dict[type, str]) -> Discriminator:
    """Choose the type of a field by its value: a text, or the tag of another type.

    Args:
        expected: the types of the field, for the error message if the value has none of them.
        tags: the tags of the other types.
    """

    def tag(value: Any) -> str | None:
        return "str" if isinstance(value, str) else tags.get(type(value))

    return Discriminator(
        tag, custom_error_type="wrong_type", custom_error_message=f"expected {expected}"
    )


def _prompt_kind(value: Any) -> str | None:
    """Return the type of one prompt or several; the first entry of a list decides."""
    if not isinstance(value, list):
        return "str" if isinstance(value, str) else None
    if value and isinstance(value[0], list):
        return "list[list[int]]"
    return "list[str]" if value and isinstance(value[0], str) else "list[int]"


def _check_encoding(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse an object with lone surrogates, which a response cannot contain."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = "there is a lone surrogate, which is not a character; remove it"
        raise ValueError(message) from error
    return value


def _check_length(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse metadata that is too long, because the server stores it and sends it back."""
    length = len(json.dumps(value))
    if length > MAX_METADATA:
        raise ValueError(f"there are {length} characters of JSON, expected at most {MAX_METADATA}")
    return value


def _at_most(limit: int) -> Callable[[Any], Any]:
    """Return a validator for the number of prompts; the ids of one prompt are not counted."""

    def check(value: Any) -> Any:
        if _prompt_kind(value) in ("list[str]", "list[list[int]]") and len(value) > limit:
            found = {"field_type": "List", "max_length": limit, "actual_length": len(value)}
            raise PydanticKnownError("too_long", found)
        return value

    return check


Object = Annotated[dict[str, Any], AfterValidator(_check_encoding)]
Metadata = Annotated[Object, AfterValidator(_check_length)]
Stops = Annotated[list[Stop], Field(fail_fast=True, max_length=MAX_STOPS)]
Choice = Literal["none", "auto", "required"]
Items = Annotated[list[Object], Field(fail_fast=True, max_length=10_000)]

StopField = Annotated[
    Annotated[Stop, Tag("str")] | Annotated[Stops, Tag("list[]")],
    _text_or("a string or a list of strings", {list: "list[]"}),
]
InputField = Annotated[
    Annotated[Text, Tag("str")] | Annotated[Items, Tag("list[]")],
    _text_or("a string or a list of items", {list: "list[]"}),
]
ToolChoiceField = Annotated[
    Annotated[Choice, Tag("str")] | Annotated[Object, Tag("dict[]")],
    _text_or("'none', 'auto', 'required', or an object that names a tool", {dict: "dict[]"}),
]
PromptField = Annotated[
    Annotated[Text, Tag("str")]
    | Annotated[TokenIds, Tag("list[int]")]
    | Annotated[list[Text], Field(fail_fast=True), Tag("list[str]")]
    | Annotated[list[TokenIds], Field(fail_fast=True), Tag("list[list[int]]")],
    Discriminator(
        _prompt_kind,
        custom_error_type="wrong_type",
        custom_error_message="expected a string, a list of strings, token ids, or lists of them",
    ),
]
"""One prompt or several, as text or as token ids."""


class RequestBody(BaseModel):
    """Base of all request bodies: no unknown fields, and no conversion between types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_unknown_nulls(cls, value: Any) -> Any:
        """Drop unknown fields that are null, because clients send back whole responses."""
        if not isinstance(value, dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {key: member for key, member in value.items() if member is not None or key in known}


class StreamOptions(RequestBody):
    """Data that a stream contains in addition to the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool | None = None


class IgnoredFields(RequestBody):
    """Fields that clients send by default and that have no effect on a reply.

    They are reported in a header of the response; with `--strict` they are refused.
    """

    user: Text | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Object | None = None
    prompt_cache_retention: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    modalities: list[Literal["text"]] | None = None
    num_ctx: int | None = None
    keep_alive: str | int | float | None = None

    @property
    def ignored(self) -> list[str]:
        """The names of the given fields that have no effect."""
        return [name for name in IgnoredFields.model_fields if getattr(self, name) is not None]


class GenerationRequest(IgnoredFields):
    """Fields that control generation. The model's defaults, listed in /v1/models, fill the rest.

    `penalty_decay` is specific to RWKV: with each token, the frequency penalty of earlier tokens is
    multiplied by it. As in other RWKV software, `top_p` is applied before the temperature. As in
    other local servers, -1 means a random `seed`, and no limit in `top_k` and `max_tokens`.
    """

    model: Text | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    seed: Annotated[int, Field(ge=-1, lt=2**63)] | None = None
    stop: StopField | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**20)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    penalty_decay: Probability | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    max_tokens: TokenLimit | None = None
    state: Annotated[str, Field(max_length=100)] | None = None

    @field_validator("stream_options")
    @classmethod
    def _needs_stream(
        cls, value: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("the response is not streamed; leave it out, or set stream to true")
        return value

    @property
    def choices(self) -> int:
        """The number of choices."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end a reply."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def sampling(self, default: Sampling) -> Sampling:
        """Return the sampling parameters of the request, with defaults for missing fields."""
        given = {name: getattr(self, name) for name in SAMPLING_FIELDS}
        given = {name: value for name, value in given.items() if value is not None}
        if self.top_k == -1:
            given["top_k"] = 0
        return replace(default, **given, seed=None if self.seed == -1 else self.seed)


class TextPart(RequestBody):
    """A text part of a message; other parts are not supported."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


Parts = Annotated[list[TextPart], Field(fail_fast=True, max_length=1000)]
ContentField = Annotated[
    Annotated[Text, Tag("str")] | Annotated[Parts, Tag("list[TextPart]")],
    _text_or("a string or a list of text parts", {list: "list[TextPart]"}),
]


class FunctionCall(RequestBody):
    """The name of a called tool, and its arguments as JSON text."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,128}$")]
    arguments: Text


class ToolCall(RequestBody):
    """A tool call in an assistant's message."""

    id: Annotated[str, Field(max_length=100)]
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


def _text_of(content: str | list[TextPart] | None) -> str:
    """Return the text of all parts of a content."""
    if isinstance(content, list):
        return "".join(part.text for part in content)
    return content or ""


class Prediction(RequestBody):
    """A text that the reply is expected to repeat in large parts, such as a file to be edited."""

    type: Literal["content"]
    content: ContentField

    @property
    def text(self) -> str:
        """The text of all parts."""
        return _text_of(self.content)


class ChatMessage(RequestBody):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: ContentField | None = None
    name: Annotated[str, Field(max_length=100)] | None = None
    reasoning: Text | None = None
    reasoning_content: Text | None = None  # the name of `reasoning` in other servers
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=100)] | None = None
    tool_call_id: Annotated[str, Field(max_length=100)] | None = None

    @property
    def text(self) -> str:
        """The text of all parts."""
        return _text_of(self.content)


Messages = Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=10_000)]


class JsonSchema(RequestBody):
    """A JSON schema that a reply must follow."""

    name: Annotated[str, Field(max_length=64)] = "reply"
    description: Text | None = None
    strict: bool | None = None
    schema_: Object = Field(default_factory=dict, alias="schema")


class ResponseFormat(RequestBody):
    """The format of a reply."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(GenerationRequest):
    """The body of `POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Object], Field(fail_fast=True, max_length=512)] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    prediction: Prediction | None = None
    _path: Callable[[Location], str] = PrivateAttr(default_factory=lambda: dotted)

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("it has no effect without logprobs; set logprobs to true")
        return value

    @classmethod
    def converted(cls, fields: dict[str, Any], path: Callable[[Location], str]) -> Self:
        """Validate a request that was converted from another API.

        Args:
            fields: the body of the chat request.
            path: returns the path, in the body that the client sent, of a location in `fields`.

        Raises:
            ApiError: if the body is invalid; it names the fields of the other API.
        """
        try:
            request = cls.model_validate(fields)
        except ValidationError as error:
            raise validation_error(error.errors(), path) from error
        request._path = path
        return request

    @property
    def token_limit(self) -> int | None:
        """The largest number of tokens; `max_tokens` is the old name of the field."""
        new = self.max_completion_tokens
        return self.max_tokens if new is None else new

    def path(self, *location: str | int) -> str:
        """Return the path of a field in the body that the client sent, for error messages."""
        return self._path(location)


class CompletionRequest(GenerationRequest):
    """The body of `POST /v1/completions`: a text that the model continues."""

    prompt: Annotated[PromptField, AfterValidator(_at_most(MAX_PROMPTS))]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1, le=1)] | None = None


class TextOptions(RequestBody):
    """The field `text` of a request to `/v1/responses`; `verbosity` has no effect."""

    format: Object | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(RequestBody):
    """The field `reasoning` of a request to `/v1/responses`; summaries are not made."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(IgnoredFields):
    """The body of `POST /v1/responses`.

    Agents add fields without notice, so unknown ones are ignored and reported.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    model: Text | None = None
    input: InputField
    instructions: Text | None = None
    previous_response_id: Annotated[str, Field(max_length=100)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_output_tokens: TokenLimit | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    tools: Annotated[list[Object], Field(fail_fast=True, max_length=512)] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: list[str] | None = None
    background: Literal[False] | None = None
    state: Annotated[str, Field(max_length=100)] | None = None

    @property
    def ignored(self) -> list[str]:
        """The names of the given fields that have no effect, unknown ones last."""
        known = [name for name in super().ignored if name != "store"]
        unknown = [name for name, value in (self.model_extra or {}).items() if value is not None]
        return known + sorted(unknown)


class EmbeddingRequest(IgnoredFields):
    """The body of `POST /v1/embeddings`."""

    model: Text | None = None
    input: Annotated[PromptField, AfterValidator(_at_most(MAX_INPUTS))]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None


class TokenizeRequest(RequestBody):
    """The body of `POST /tokenize`."""

    model: Text | None = None
    content: Text


class DetokenizeRequest(RequestBody):
    """The body of `POST /detokenize`."""

    model: Text | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True, max_length=MAX_CHARACTERS)]


class StateRequest(RequestBody):
    """The body of `POST /v1/states`: messages or a text, whose state is saved."""

    model: Text | None = None
    messages: Messages | None = None
    prompt: Text | None = None
    state: Annotated[str, Field(max_length=100)] | None = None
