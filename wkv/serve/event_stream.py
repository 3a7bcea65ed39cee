"""How answers leave: as a stream of server-sent events, or whole; ended when nobody listens."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from wkv.errors import WKVError
from wkv.serve.errors import ApiError, as_api_error

Json = dict[str, Any]
Result = TypeVar("Result")

STREAM: dict[int | str, Json] = {
    200: {
        "description": "The answer, whole or as server-sent events",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}
"""What the OpenAPI document says of a route that can stream."""

NOBODY_LISTENS = 499
"""The status of an answer that nobody waits for; it is only seen in logs."""


def streamed(
    chunks: AsyncGenerator[Json, None], close: Callable[[], None], *, ends: str | None = "[DONE]"
) -> Response:
    """Chunks as server-sent events; what goes wrong on the way is the last of them.

    `close` is called in the end, also if the client was gone before the first chunk was asked for.
    """
    return _Stream(
        _events(chunks, ends),
        close,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


class _Stream(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[str, None], close: Callable[[], None], headers: dict[str, str]
    ) -> None:
        super().__init__(events, headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _events(
    chunks: AsyncGenerator[Json, None], ends: str | None
) -> AsyncGenerator[str, None]:
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield _event(chunk)
        except ApiError as error:
            yield _event(error.body)
        except WKVError as error:
            yield _event(as_api_error(error).body)
        if ends is not None:
            yield f"data: {ends}\n\n"


def _event(chunk: Json) -> str:
    """One event; those with a type of their own are named by it."""
    kind = chunk.get("type")
    named = f"event: {kind}\n" if isinstance(kind, str) else ""
    return f"{named}data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


async def while_listened(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of some work, which is cancelled when the client goes away.

    Raises:
        ApiError: when it went away; nobody will see it.
    """

    async def gone() -> None:
        while not await http.is_disconnected():
            await asyncio.sleep(0.2)

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(NOBODY_LISTENS, "the client went away")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


def usage_body(prompt: int, completion: int, cached: int) -> Json:
    """Tokens as an answer tells them."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())
