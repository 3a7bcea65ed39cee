"""Pydantic models of Anthropic's Messages API: request bodies, responses and streamed events.

Agents add fields without notice, so unknown fields at the top level are ignored and reported.
Inside of messages and tools, only the fields that are read are looked at. What would change the
reply, such as images and the tools of Anthropic's servers, is refused by name.
Source: the anthropic package, types/message_create_params.py and types/raw_message_stream_event.py.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from wkv.serve.protocol.requests import MAX_TOKENS, Object, Probability, Stops, Text
from wkv.serve.protocol.responses import ResponseModel

Json = dict[str, Any]

NO_EFFECT = (
    "cache_control",
    "metadata",
    "service_tier",
    "speed",
    "inference_geo",
    "context_management",
    "diagnostics",
    "fallbacks",
    "betas",
)
"""Fields of the API that cannot change a reply here."""

REFUSED = ("container", "mcp_servers")
"""Fields that would change the reply, and that this server cannot provide."""


class MessagesBody(BaseModel):
    """The fields of a conversation, which requests for a reply and for a count share."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: Text
    messages: Annotated[list[Object], Field(fail_fast=True, min_length=1, max_length=10_000)]
    system: Text | Annotated[list[Object], Field(fail_fast=True, max_length=1000)] | None = None
    tools: Annotated[list[Object], Field(fail_fast=True, max_length=512)] | None = None
    tool_choice: Object | None = None
    thinking: Object | None = None
    output_config: Object | None = None

    @property
    def ignored(self) -> list[str]:
        """The names of the fields that had no effect, known ones first."""
        names = [name for name, value in (self.model_extra or {}).items() if value is not None]
        return sorted(names, key=lambda name: (name not in NO_EFFECT, name))


class CountRequest(MessagesBody):
    """The body of `POST /v1/messages/count_tokens`."""


class MessagesRequest(MessagesBody):
    """The body of `POST /v1/messages`. With 0 as `max_tokens`, the prompt is read and cached."""

    max_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)]
    stream: bool | None = False
    stop_sequences: Stops | None = None
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=0, le=2**20)] | None = None


class TextBlock(ResponseModel):
    """Text of the reply."""

    type: Literal["text"]
    text: str


class ThinkingBlock(ResponseModel):
    """Reasoning before the reply. The signature has no meaning here."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(ResponseModel):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Json


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]


class OutputDetails(ResponseModel):
    """The number of tokens before the answer."""

    thinking_tokens: int


class Usage(ResponseModel):
    """Counts of tokens: the input is the sum of the first three numbers."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputDetails


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessageObject(ResponseModel):
    """A reply."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Block]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class TokenCount(ResponseModel):
    """The number of tokens of a prompt."""

    input_tokens: int


class MessageStart(ResponseModel):
    """The first event of a stream: the message without content."""

    type: Literal["message_start"]
    message: MessageObject


class BlockStart(ResponseModel):
    """The beginning of a block, without its content."""

    type: Literal["content_block_start"]
    index: int
    content_block: Block


class BlockDelta(ResponseModel):
    """A part of a block: text_delta, thinking_delta, signature_delta or input_json_delta."""

    type: Literal["content_block_delta"]
    index: int
    delta: Json


class BlockStop(ResponseModel):
    """The end of a block."""

    type: Literal["content_block_stop"]
    index: int


class MessageDelta(ResponseModel):
    """The reason for the end, and the final counts."""

    type: Literal["message_delta"]
    delta: Json
    usage: Usage


class MessageStop(ResponseModel):
    """The last event."""

    type: Literal["message_stop"]


class Ping(ResponseModel):
    """An event without content, while the prompt is read."""

    type: Literal["ping"]


MESSAGE_EVENTS = (
    MessageStart,
    BlockStart,
    BlockDelta,
    BlockStop,
    MessageDelta,
    MessageStop,
    Ping,
)
