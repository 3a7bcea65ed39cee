"""What form a reply must have: words, JSON, or calls of tools; and what the model is told of it."""

import json
from dataclasses import dataclass, field

from wkv.constraints.grammar import Grammar, Grammars
from wkv.constraints.tool_calls import calls_grammar
from wkv.prompting.template import Message
from wkv.prompting.tool_types import Call, Tool, ToolChoice
from wkv.prompting.tools import call_prefix, call_text, result_text, tools_system
from wkv.serve.errors import ApiError
from wkv.serve.requests import ChatMessage, ChatRequest, ResponseFormat
from wkv.serve.tool_requests import calls_of, tools_of


@dataclass(frozen=True)
class ReplyFormat:
    """The form of a reply.

    Attributes:
        grammar: what it must follow; None: nothing.
        names: of the tools that may be called.
        assistant_prefix: what it begins with; None: as the model likes.
        told: what the system's turn says of it.
        parallel: whether it may hold several calls.
    """

    grammar: Grammar | None = None
    names: tuple[str, ...] = field(default=())
    assistant_prefix: str | None = None
    told: str = ""
    parallel: bool = False


def response_format_of(body: ChatRequest, grammars: Grammars) -> ReplyFormat:
    """The form that a request wants. Compiles its grammar, which may take seconds.

    Raises:
        ApiError, InputError: if it contradicts itself, or a schema cannot be followed.
        BusyError: if too many grammars are being compiled.
        MissingExtraError: if llguidance is not installed.
    """
    tools = tools_of(body.tools)
    choice = ToolChoice.of(body.tool_choice, tools)
    wanted = body.response_format
    has_format = wanted is not None and wanted.type != "text"
    if choice.is_forced and has_format:
        raise ApiError(
            400, "a reply is either a call or has a format; leave one out", param="response_format"
        )
    if body.ignore_eos and (choice.is_forced or has_format):
        raise ApiError(
            400, "ignore_eos: a reply with a form must be able to end", param="ignore_eos"
        )
    if wanted is not None and has_format:
        return _json(wanted, grammars)
    offered = choice.offered(tools)
    if not offered:
        return ReplyFormat()
    # Models were trained to make one call; a small one asked for several does not find an end.
    parallel = body.parallel_tool_calls is True and choice.mode != "named"
    return _calls(offered, choice, parallel, grammars)


def _json(wanted: ResponseFormat, grammars: Grammars) -> ReplyFormat:
    if wanted.type == "json_object":
        return ReplyFormat(grammars.json_object(), told="Answer with a JSON object only.")
    if wanted.json_schema is None:
        raise ApiError(400, "json_schema is missing", param="response_format.json_schema")
    schema = wanted.json_schema.schema_
    grammar = grammars.json_schema(schema, lenient=wanted.json_schema.strict is False)
    told = f"Answer with JSON only, as this schema says: {json.dumps(schema, ensure_ascii=False)}"
    return ReplyFormat(grammar, told=told)


def _calls(
    offered: tuple[Tool, ...], choice: ToolChoice, parallel: bool, grammars: Grammars
) -> ReplyFormat:
    told = tools_system(offered, may_answer=not choice.is_forced, parallel=parallel)
    grammar = calls_grammar(grammars, offered, choice, parallel=parallel)
    assistant_prefix = call_prefix(choice) or None
    return ReplyFormat(
        grammar, tuple(tool.name for tool in offered), assistant_prefix, told, parallel
    )


def messages_of(messages: list[ChatMessage], form: ReplyFormat) -> list[Message]:
    """Messages as the prompt writes them, with what the system says of the form.

    Raises:
        InputError: for a call that is none.
    """
    told = [_message(message) for message in messages]
    # Many clients send a system's message whether there is one or not.
    told = [message for message in told if message.role != "system" or message.text.strip()]
    if not form.told:
        return told
    if told and told[0].role == "system":
        own = told.pop(0).text.rstrip()
        return [Message("system", f"{own}\n{form.told}" if own else form.told), *told]
    return [Message("system", form.told), *told]


def assistant_text(content: str, calls: tuple[Call, ...]) -> str:
    """What an assistant said: words, then calls as a model writes them."""
    if not calls:
        return content
    words = content.rstrip()
    return f"{words}\n{call_text(calls)}" if words else call_text(calls)


def _message(message: ChatMessage) -> Message:
    if message.role == "tool":
        return Message("user", result_text(message.text))
    if message.role == "assistant":
        entries = [call.model_dump() for call in message.tool_calls or ()]
        text = assistant_text(message.text, calls_of(entries))
        return Message("assistant", text, message.reasoning or message.reasoning_content or "")
    return Message("system" if message.role == "developer" else message.role, message.text)
