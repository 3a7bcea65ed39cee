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
            return AuthCredentials(), SimpleUser("")
        scheme, _, key = conn.headers.get("authorization", "").encode("latin-1").partition(b" ")
        if not scheme and "x-api-key" in conn.headers:
            scheme, key = b"bearer", conn.headers["x-api-key"].encode("latin-1")
        # All keys are compared, so that the response time does not reveal which one matched.
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise AuthenticationError(
                "a valid API key is needed; send 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        return AuthCredentials(), SimpleUser(hashlib.sha256(key).hexdigest())


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


class SendTimeout:
    """Close a connection whose client has received nothing for some time."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        timeout: asyncio.Timeout | None = None

        async def timed(message: Message) -> None:
            nonlocal timeout
            async with asyncio.timeout(self._seconds) as timeout:
                await send(message)

        try:
            await self._app(scope, receive, timed if scope["type"] == "http" else send)
        except TimeoutError:
            if timeout is None or not timeout.expired():
                raise  # another timeout, which is not ours to handle
