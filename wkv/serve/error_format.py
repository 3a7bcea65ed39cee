"""ASGI middleware that sends errors in the format of the API that was called.

All other code creates errors in the format of the OpenAI API, also before a route is known.
"""

import json
from typing import Any
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wkv.serve.protocol.errors import ApiError

MESSAGES = "/v1/messages"
"""Paths of Anthropic's API begin with this."""


class ErrorFormat:
    """Convert the errors of Anthropic's API, and give its responses a request id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or not scope["path"].startswith(MESSAGES):
            await self._app(scope, receive, send)
            return
        request_id = f"req_{uuid4().hex}"
        start: Message | None = None
        parts: list[bytes] = []

        async def converted(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["request-id"] = request_id
                if message["status"] >= 400:
                    start = message
                    return
            if start is None:
                await send(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                body = _body(start["status"], b"".join(parts), request_id)
                MutableHeaders(scope=start)["content-length"] = str(len(body))
                await send(start)
                await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, converted)


def _body(status: int, body: bytes, request_id: str) -> bytes:
    """Return the body of an error in Anthropic's format."""
    try:
        error: dict[str, Any] = json.loads(body)["error"]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):
        message = "the server failed"
    converted = ApiError(status, message).anthropic_body | {"request_id": request_id}
    return json.dumps(converted, ensure_ascii=False).encode()
