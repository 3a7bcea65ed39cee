"""Conversion of the messages of a request to those that the prompt is rendered from."""

from collections.abc import Sequence

from wkv.prompting.template import Message
from wkv.prompting.tool_types import Call
from wkv.prompting.tools import call_text, result_text
from wkv.serve.build_constraints import ReplyFormat
from wkv.serve.protocol.requests import ChatMessage

NO_IMAGE = "[image not supported]"
"""Stands for a picture in the result of a tool. A refusal would be repeated with every turn."""


def messages_of(messages: Sequence[ChatMessage], reply_format: ReplyFormat) -> list[Message]:
    """Return the messages to render, with the instruction of the format in the system message."""
    rendered = [_message(message) for message in messages]
    # Many clients always send a system message, even an empty one.
    rendered = [message for message in rendered if message.role != "system" or message.text.strip()]
    if not reply_format.instruction:
        return rendered
    system = reply_format.instruction
    if rendered and rendered[0].role == "system":
        own = rendered.pop(0).text.rstrip()
        system = f"{own}\n{system}" if own else system
    return [Message("system", system), *rendered]


def _message(message: ChatMessage) -> Message:
    if message.role == "tool":
        return Message("user", result_text(message.text))
    if message.role == "assistant":
        functions = [call.function for call in message.tool_calls or ()]
        calls = [Call(function.name, function.arguments) for function in functions]
        text = assistant_text(message.text, calls)
        return Message("assistant", text, message.reasoning or message.reasoning_content or "")
    return Message("system" if message.role == "developer" else message.role, message.text)


def assistant_text(content: str, calls: Sequence[Call]) -> str:
    """Return the text of an assistant's message: content, then calls as a model writes them."""
    if not calls:
        return content
    content = content.rstrip()
    return f"{content}\n{call_text(calls)}" if content else call_text(calls)
