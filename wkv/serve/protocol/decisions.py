"""Pydantic models of `/v1/decisions` and `/v1/systemone`: typed questions and their answers.

Sources: the openai package, types/decision*.py; vLLM, entrypoints/openai/decisions, and SGLang for
System One.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from wkv.serve.protocol.requests import InputField, Object, RequestBody, Text
from wkv.serve.protocol.responses import ResponseModel

Json = dict[str, Any]


class DecisionRequest(RequestBody):
    """The body of `POST /v1/decisions`. The last three fields have no effect."""

    input: InputField
    model: Text | None = None
    questions: Annotated[list[Object], Field(fail_fast=True, min_length=1, max_length=400)]
    state: Annotated[str, Field(max_length=100)] | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_options: Object | None = None
    safety_identifier: Text | None = None


class SystemOneRequest(RequestBody):
    """The body of `POST /v1/systemone`: questions by id about a text or any JSON value."""

    state: Any
    model: Text | None = None
    questions: Annotated[dict[str, Object], Field(min_length=1, max_length=400)]


class DecisionUsage(ResponseModel):
    """Counts of tokens; nothing is generated."""

    input_tokens: int
    input_tokens_details: Json
    output_tokens: int
    output_tokens_details: Json
    total_tokens: int


class DecisionObject(ResponseModel):
    """The answers to the questions, in their order."""

    object: Literal["decision"]
    model: str
    answers: list[Json]
    usage: DecisionUsage


class SystemOneUsage(ResponseModel):
    """Counts of tokens; nothing is generated."""

    input_tokens: int
    output_tokens: int


class SystemOneObject(ResponseModel):
    """The answers by the ids of the questions."""

    object: Literal["structured_decision"]
    model: str
    answers: dict[str, Json]
    usage: SystemOneUsage
