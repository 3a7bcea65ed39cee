"""ASGI middleware that accepts other spellings of a request: its path, HEAD, and gzip.

//v1/models/     /v1/models     slashes that joining an address and a path leaves
/models          /v1/models     an address without /v1 in a client's settings
/v1/v1/models    /v1/models     an address with /v1, of a client that adds it again
/v1/health       /health        the same, for paths that are not below /v1
http://host/v1   /v1            the absolute form, which proxies send

All other middleware and the routes see the second form only.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wkv.serve.protocol.errors import ApiError

API_FOLDERS = re.compile(
    r"/(chat|completions|decisions|embeddings|messages|models|responses|states|systemone)(/|$)"
)
"""Paths of the OpenAI API, which are below /v1."""

OTHER_PATHS = re.compile(r"(/v1)+(?=/(detokenize|docs|health|metrics|openapi\.json|tokenize)$)")
"""The beginning of paths that are not below /v1, as clients send them."""

GZIP = 16 + zlib.MAX_WBITS
PIECE = 2**16
INVALID = "the body is not valid gzip, as its Content-Encoding says; send it again"


class RequestTarget:
    """Convert the path of a request to the one that its route has, and HEAD to GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, **_target(scope)}
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


def _target(scope: Scope) -> Scope:
    """Return the path of a request, and its headers if the target names the host."""
    path, fields = scope["path"], {}
    with suppress(ValueError):
        target = urlsplit(path)
        if target.scheme in ("http", "https"):
            path = target.path
            others = [(name, value) for name, value in scope["headers"] if name != b"host"]
            fields["headers"] = [*others, (b"host", target.netloc.encode())]
    path = re.sub("//+", "/", path).rstrip("/") or "/"
    path = OTHER_PATHS.sub("", re.sub("^(/v1)+(?=/|$)", "/v1", path))
    if API_FOLDERS.match(path):
        path = f"/v1{path}"
    return {**fields, "path": path}


class Decompression:
    """Decompress gzip bodies piece by piece, so that the limit of a body counts what it becomes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding == "identity":
            await self._app(scope, receive, send)
        elif coding not in ("gzip", "x-gzip"):
            message = f"the body has the encoding {coding!r:.40}; send it plain or with gzip"
            await ApiError(415, message, code="encoding").response(scope, receive, send)
        else:
            dropped = (b"content-length", b"content-encoding")
            kept = [(name, value) for name, value in scope["headers"] if name not in dropped]
            await self._app({**scope, "headers": kept}, _decompressed(receive), send)


def _decompressed(receive: Receive) -> Receive:
    """Return a function that receives the messages of a request with its body decompressed."""
    pieces = _pieces(receive)
    is_complete = False

    async def receive_decompressed() -> Message:
        nonlocal is_complete
        if is_complete:
            return await receive()
        message = await anext(pieces)
        is_complete = not message.get("more_body", False)
        return message

    return receive_decompressed


async def _pieces(receive: Receive) -> AsyncGenerator[Message, None]:
    """Yield the body in messages of at most 64 KiB.

    Raises:
        HTTPException: if the body is not valid gzip.
    """
    gzip, has_more = zlib.decompressobj(GZIP), True
    while has_more:
        message = await receive()
        if message["type"] != "http.request":
            yield message
            return
        data, has_more = message.get("body", b""), message.get("more_body", False)
        while data:
            if gzip.eof:  # another member follows; a gzip file is a list of members
                gzip = zlib.decompressobj(GZIP)
            try:
                piece = gzip.decompress(data, PIECE)
            except zlib.error as error:
                raise HTTPException(400, f"{INVALID} ({error})") from error
            data = gzip.unused_data if gzip.eof else gzip.unconsumed_tail
            yield {"type": "http.request", "body": piece, "more_body": True}
            await asyncio.sleep(0)  # other requests go on in the meantime
    if not gzip.eof:
        raise HTTPException(400, f"{INVALID} (it is incomplete)")
    yield {"type": "http.request", "body": gzip.flush(), "more_body": False}
