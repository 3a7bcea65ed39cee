"""What stands before the application: who may ask, how much they may send, how slowly read.

Plain ASGI, so that nothing is buffered on its way.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wkv.serve.errors import ApiError

TENANT = "wkv.tenant"
"""Where the scope says whose request it is."""

OPEN_PATHS = ("/", "/health")
OPEN_FOLDER = "/page/"


class Keys:
    """Lets only holders of an API key in; the page itself is for all, it asks for the key.

    A key's digest is the tenant. Keys are compared in constant time and never logged.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[TENANT] = ""
        if self._keys and not _is_open(scope["path"]):
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            kind, _, key = given.partition(b" ")
            # All are compared, so that the time does not tell which one was near.
            known = [hmac.compare_digest(key, own) for own in self._keys]
            if kind.lower() != b"bearer" or not any(known):
                message = "a valid API key is needed; send the header 'Authorization: Bearer KEY'"
                error = ApiError(401, message, code="invalid_api_key")
                await error.answer(scope, receive, send)
                return
            scope[TENANT] = hashlib.sha256(key).hexdigest()
        await self._app(scope, receive, send)


class Hosts:
    """Refuses requests for other hosts: a page elsewhere cannot reach a server on this machine."""

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self._names and scope["path"] != "/health":
                error = ApiError(
                    400,
                    f"the host {name[:99]!r} is not served here; start it with --allow-host",
                    code="host",
                )
                await error.answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies over a number of bytes, told beforehand or found while they come.

    Some paths may have limits of their own.
    """

    def __init__(self, app: ASGIApp, limit: int, paths: Mapping[str, int]) -> None:
        self._app = app
        self._limit = limit
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._paths.get(scope["path"], self._limit)
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdigit() or int(told) > limit:
            await _too_large(limit).answer(scope, receive, send)
            return
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                # FastAPI makes a 400 of any other exception while it reads a body.
                raise HTTPException(413, str(_too_large(limit)))
            return message

        await self._app(scope, limited, send)


class SlowReaders:
    """Gives a connection up whose reader has taken nothing for some time."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        timeout: asyncio.Timeout | None = None

        async def timed(message: Message) -> None:
            nonlocal timeout
            async with asyncio.timeout(self._seconds) as timeout:
                await send(message)

        try:
            await self._app(scope, receive, timed if scope["type"] == "http" else send)
        except TimeoutError:
            if timeout is None or not timeout.expired():
                raise  # somebody else's


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than {limit} bytes; send less (--max-body)"
    return ApiError(413, message, code="body_too_large")


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER)
