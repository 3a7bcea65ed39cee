"""Sending of replies as server-sent events or as one body, until the client disconnects."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from wkv.errors import WKVError
from wkv.prompting.tools import escape_line_ends
from wkv.serve.protocol.errors import ApiError, as_api_error
from wkv.serve.scheduler_thread import EventStream

Json = dict[str, Any]
Result = TypeVar("Result")

CLIENT_CLOSED_REQUEST = 499
"""The status of a response that no client receives; it appears in logs only."""

LONG_LIST = 128
"""Longer lists are encoded in pieces of this length."""

PING_SECONDS = 10.0
"""Time after which a stream without events gets one that says nothing."""

SLOW_CHUNKS = 2
"""Number of chunks at the beginning of a stream that may come late."""

COMMENT = ": the prompt is being read\n\n"
"""An event without content, which clients of the OpenAI API skip."""

POLL_SECONDS = 0.2
"""Time between two checks whether the client is still connected."""


class Exchange(Protocol):
    """A request and its replies, which turns the scheduler's events into response bodies.

    Two methods are optional: `error` returns the event for an error within a stream, and `ping`
    is an event that is sent while the prompt is read.
    """

    def chunks(self, events: EventStream) -> AsyncGenerator[Json, None]:
        """Yield the chunks of a streamed response."""

    async def body(self, events: EventStream) -> Json:
        """Return the body of a whole response."""


async def send_reply(
    http: HttpRequest,
    exchange: Exchange,
    events: EventStream,
    *,
    stream: bool | None,
    last: str | None = "[DONE]",
) -> Response:
    """Send chunks as server-sent events, or else one body; then cancel the remaining events.

    `last` is the data of an event after the last chunk, or None for no such event.

    Raises:
        WKVError, ApiError: if there is no body. A stream ends with an error event instead.
    """
    if stream:
        return EventStreamResponse(exchange, events, last)
    try:
        body = await until_disconnect(http, exchange.body(events))
        return await json_response(lambda: body)
    finally:
        events.close()


async def json_response(build: Callable[[], Json]) -> Response:
    """Build a large body in a worker thread, and return it as a JSON response."""
    data = await run_in_threadpool(lambda: "".join(_json_pieces(build())).encode())
    return Response(data, media_type="application/json")


def _json_pieces(value: Any) -> Iterator[str]:
    """Yield the JSON text of a value in pieces.

    The encoder of Python does not let other threads run before it has finished a value.
    """
    if isinstance(value, dict) and value:
        for number, (key, member) in enumerate(value.items()):
            yield f"{',' if number else '{'}{_json(key)}:"
            yield from _json_pieces(member)
        yield "}"
    elif isinstance(value, list) and len(value) > LONG_LIST:
        for begin in range(0, len(value), LONG_LIST):
            yield f"{',' if begin else '['}{_json(value[begin : begin + LONG_LIST])[1:-1]}"
        yield "]"
    elif isinstance(value, list) and value:
        for number, member in enumerate(value):
            yield "," if number else "["
            yield from _json_pieces(member)
        yield "]"
    else:
        yield _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class EventStreamResponse(StreamingResponse):
    """A response of server-sent events.

    sse-starlette would not shorten this: it changes the headers, formats each event again, and
    patches uvicorn's signal handler, while the error event, the last event and closing the
    scheduler's events would remain our code.
    """

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, events: EventStream, last: str | None) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_format_chunks(exchange, events, last), headers=headers)
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. The events are closed even if the client left before the first one."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._events.close()


def stream_documentation(*chunks: type[BaseModel]) -> dict[int | str, Json]:
    """Return the OpenAPI description of a route that can stream chunks of the given models."""
    references = [{"$ref": f"#/components/schemas/{chunk.__name__}"} for chunk in chunks]
    schema = {
        "type": "string",
        "description": "Server-sent events, whose data is JSON",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": references},
    }
    return {
        200: {
            "description": "The reply, as one body or as server-sent events",
            "content": {"text/event-stream": {"schema": schema}},
        }
    }


async def _format_chunks(
    exchange: Exchange, events: EventStream, last: str | None
) -> AsyncGenerator[str, None]:
    """Yield chunks as server-sent events; an error becomes an event too."""
    ping: Json | None = getattr(exchange, "ping", None)
    error_event: Callable[[ApiError], Json] = getattr(exchange, "error", lambda error: error.body)
    async with aclosing(exchange.chunks(events)) as chunks:
        try:
            async for chunk in _with_pings(chunks, PING_SECONDS):
                if chunk is not None:
                    yield _format_event(chunk)
                else:
                    yield COMMENT if ping is None else _format_event(ping)
        except ApiError as error:
            yield _format_event(error_event(error))
        except WKVError as error:
            yield _format_event(error_event(as_api_error(error)))
        if last is not None:
            yield f"data: {last}\n\n"


async def _with_pings(
    chunks: AsyncGenerator[Json, None], seconds: float
) -> AsyncGenerator[Json | None, None]:
    """Yield chunks, and None whenever none of the first ones has come for some seconds.

    Agents give up after minutes of silence, in which a long prompt is read. Later, tokens follow
    each other, and a task for each of them would cost too much.
    """
    for _ in range(SLOW_CHUNKS):
        waiting = asyncio.ensure_future(anext(chunks, None))
        try:
            while not (await asyncio.wait({waiting}, timeout=seconds))[0]:
                yield None
        finally:
            waiting.cancel()
        chunk = waiting.result()
        if chunk is None:
            return
        yield chunk
    async for chunk in chunks:
        yield chunk


def _format_event(chunk: Json) -> str:
    """Return a chunk as a server-sent event. The type of a chunk is the name of its event."""
    kind = chunk.get("type")
    name = f"event: {kind}\n" if isinstance(kind, str) else ""
    return f"{name}data: {escape_line_ends(_json(chunk))}\n\n"


async def until_disconnect(http: HttpRequest, work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine, which is cancelled if the client disconnects.

    Raises:
        ApiError: if the client disconnected; nobody receives it.
    """

    async def disconnected() -> None:
        while not await http.is_disconnected():
            await asyncio.sleep(POLL_SECONDS)

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(CLIENT_CLOSED_REQUEST, "the client disconnected")
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
