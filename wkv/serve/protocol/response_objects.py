"""Pydantic models of the bodies and streamed events of `/v1/responses`."""

from typing import Any, Literal

from wkv.serve.protocol.responses import CachedTokens, ReasoningTokens, ResponseModel

Json = dict[str, Any]


class OutputText(ResponseModel):
    """The text of an output message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Json]
    logprobs: list[Json]


class ReasoningText(ResponseModel):
    """The text of a reasoning item."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(ResponseModel):
    """Reasoning before an answer."""

    type: Literal["reasoning"]
    id: str
    summary: list[Json]
    content: list[ReasoningText] | None = None


class MessageItem(ResponseModel):
    """A message of the assistant."""

    type: Literal["message"]
    id: str
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class FunctionCallItem(ResponseModel):
    """A tool call."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Literal["completed", "incomplete"]
    namespace: str | None = None


class CustomToolCallItem(ResponseModel):
    """A call of a custom tool, whose input is a text."""

    type: Literal["custom_tool_call"]
    id: str
    call_id: str
    name: str
    input: str
    status: Literal["completed", "incomplete"]


OutputItem = ReasoningItem | MessageItem | FunctionCallItem | CustomToolCallItem


class ResponseError(ResponseModel):
    """The reason why a response failed."""

    code: Literal["rate_limit_exceeded", "server_error"]
    message: str


class IncompleteDetails(ResponseModel):
    """The reason why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class ReasoningSettings(ResponseModel):
    """The reasoning settings of a request."""

    effort: str | None
    summary: None


class ResponseUsage(ResponseModel):
    """The token counts of a response."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseObject(ResponseModel):
    """The response of `POST /v1/responses` and `GET /v1/responses/{name}`."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: ReasoningSettings
    store: bool
    temperature: float | None
    text: Json
    tool_choice: str | Json
    tools: list[Json]
    top_p: float | None
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    metadata: Json


class NumberedEvent(ResponseModel):
    """Base of the events of a streamed response."""

    sequence_number: int


class StatusEvent(NumberedEvent):
    """The response has started or ended."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class OutputItemEvent(NumberedEvent):
    """An output item has started or ended."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class ContentEvent(NumberedEvent):
    """Base of the events about the content of an item."""

    item_id: str
    output_index: int
    content_index: int


class ContentPartEvent(ContentEvent):
    """A part of a message has started or ended."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: OutputText


class TextDeltaEvent(ContentEvent):
    """A piece of text or reasoning."""

    type: Literal["response.output_text.delta", "response.reasoning_text.delta"]
    delta: str
    logprobs: list[Json] | None = None


class TextDoneEvent(ContentEvent):
    """The whole text or reasoning of an item."""

    type: Literal["response.output_text.done", "response.reasoning_text.done"]
    text: str
    logprobs: list[Json] | None = None


class ArgumentsDeltaEvent(NumberedEvent):
    """A piece of the arguments of a tool call, or of the input of a custom tool."""

    type: Literal["response.function_call_arguments.delta", "response.custom_tool_call_input.delta"]
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(NumberedEvent):
    """The whole arguments of a tool call."""

    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: int
    arguments: str
    name: str


class InputDoneEvent(NumberedEvent):
    """The whole input of a custom tool."""

    type: Literal["response.custom_tool_call_input.done"]
    item_id: str
    output_index: int
    input: str


RESPONSE_EVENTS = (
    StatusEvent,
    OutputItemEvent,
    ContentPartEvent,
    TextDeltaEvent,
    TextDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    InputDoneEvent,
)
"""All events of a streamed response."""
