"""ASGI middleware: hosts, API keys, the size of bodies, and a timeout for slow readers."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping, Sequence

from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    SimpleUser,
)
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wkv.serve.protocol.errors import ApiError

OPEN_PATHS = ("/", "/health", "/docs")
OPEN_FOLDER = "/page/"
"""Paths that need no API key. The chat page asks the user for the key."""

METRICS = "metrics"
"""Permission to read the metrics, which tell something about the requests of all keys."""


class ApiKeys(AuthenticationBackend):
    """Identify the tenant of a request by its API key, for Starlette's AuthenticationMiddleware.

    The SHA-256 of the key names the tenant. Keys are compared in constant time and never logged.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        """Return the tenant; its name is empty if no key is needed.

        Raises:
            AuthenticationError: if the key is missing or wrong.
        """
        path = conn.scope["path"]
        if not self._keys or path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return AuthCredentials([METRICS]), SimpleUser("")
        # All keys are compared, so that the response time does not reveal which one matched.
        matches = [
            (number, sent)
            for sent in _keys_of(conn.headers)
            for number, known in enumerate(self._keys)
            if hmac.compare_digest(sent, known)
        ]
        if not matches:
            raise AuthenticationError(
                "a valid API key is needed; send 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        number, key = matches[0]
        permissions = [METRICS] if number == 0 else []
        return AuthCredentials(permissions), SimpleUser(hashlib.sha256(key).hexdigest())


def _keys_of(headers: Headers) -> list[bytes]:
    """Return the keys that a request sends, in either header."""
    scheme, _, key = headers.get("authorization", "").encode("latin-1").partition(b" ")
    keys = [key] if scheme.lower() == b"bearer" else []
    if "x-api-key" in headers:
        keys.append(headers["x-api-key"].encode("latin-1"))
    return keys


def on_authentication_error(_: HTTPConnection, error: AuthenticationError) -> Response:
    """Return the response for a missing or wrong key."""
    return ApiError(401, str(error), code="invalid_api_key").response


def tenant_of(request: Request) -> str:
    """Return the tenant of a request."""
    return str(request.user.username)


class HostCheck:
    """Refuse requests for other hosts, so that other websites cannot reach a local server.

    Starlette's TrustedHostMiddleware sends plain text instead of an API error, and would refuse
    the health checks of load balancers, which use other names.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http" and scope["path"] != "/health":
            host = Headers(scope=scope).get("host", "").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self._names:
                message = f"the host {name[:99]!r} is not allowed; allow it with --allow-host"
                await ApiError(400, message, code="host").response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuse bodies that are too large, by their Content-Length or while they are received.

    Starlette's own limit has neither limits for single paths nor API errors.
    """

    def __init__(self, app: ASGIApp, limit: int, paths: Mapping[str, int]) -> None:
        """Limit bodies to `limit` bytes, and those of some paths to limits of their own."""
        self._app = app
        self._limit = limit
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._paths.get(scope["path"], self._limit)
        message = f"the body is larger than {limit} bytes; send less, or raise --max-body"
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdigit() or int(length) > limit:
            error = ApiError(413, message, code="body_too_large")
            await error.response(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > limit:
                # FastAPI converts other exceptions that occur while it reads a body to status 400.
                raise HTTPException(413, message)
            return part

        await self._app(scope, limited, send)


class FramingCheck:
    """Refuse requests whose end can be understood in two ways.

    If a proxy in front of the server trusts the other header, one client could hide a request in
    the body of another request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "http":
            names = {name for name, _ in scope["headers"]}
            if {b"content-length", b"transfer-encoding"} <= names:
                message = "the request has both Content-Length and Transfer-Encoding; send one"
                response = ApiError(400, message, code="framing").response
                response.headers["Connection"] = "close"
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class SendTimeout:
    """Close a connection whose client has received nothing for some time.

    Most chunks are sent at once. So one timer for each request looks at the time of the chunk that
    is being sent, instead of one timer for each chunk.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        began: float | None = None  # the time at which the present chunk was given to `send`
        timer: asyncio.TimerHandle

        async def timed(message: Message) -> None:
            nonlocal began
            began = loop.time()
            await send(message)
            began = None

        def check() -> None:
            nonlocal timer
            now = loop.time()
            deadline = (now if began is None else began) + self._seconds
            if deadline <= now:
                timeout.reschedule(now)
            else:
                timer = loop.call_at(deadline, check)

        timer = loop.call_later(self._seconds, check)
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                await self._app(scope, receive, timed)
        except TimeoutError:
            if not timeout.expired():
                raise  # another timeout, which is not ours to handle
        finally:
            timer.cancel()
