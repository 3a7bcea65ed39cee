"""Limits of connections: their number, and the time that a client may take to send a request.

Without them, a few hundred clients that never finish their requests would occupy all files that
the system lets a process open, and nobody else could connect.
"""

import asyncio
import errno
import logging
from dataclasses import dataclass, field
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 20.0
"""Time that a client has to send a request, without the time for its size."""

SLOWEST_RATE = 500.0
"""Bytes per second of the slowest accepted client."""

OTHER_FILES = 64
"""Files beside connections: the model, states, the database, and connections being accepted."""

MAX_CONNECTIONS = 8192

ACCEPTED_AT_ONCE = 8
"""Connections that are accepted before old ones are closed for them."""

LOGGER = logging.getLogger(__name__)


@dataclass
class ConnectionLimit:
    """The open connections of a server.

    Attributes:
        largest: the largest number of them.
        waiting: connections that wait for data from their clients, the oldest first.
    """

    largest: int
    waiting: "dict[LimitedProtocol, None]" = field(default_factory=dict)
    _is_reported: bool = False

    def admit(self, connection: "LimitedProtocol", n_open: int) -> None:
        """Close the connection that has waited longest for its client if there are too many."""
        self.waiting[connection] = None
        if n_open > self.largest:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.transport.abort()
            self.report()

    def close_waiting(self) -> None:
        """Close the connections that wait for their clients, because the server stops."""
        for connection in list(self.waiting):
            connection.transport.abort()

    def report(self) -> None:
        """Log once that there are too many connections."""
        if not self._is_reported:
            self._is_reported = True
            LOGGER.warning(
                "there are more than %d connections; those whose clients send nothing are closed. "
                "To allow more, raise the limit of open files (ulimit -n)",
                self.largest,
            )

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle errors of the event loop; asyncio would log thousands of lines for this one."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self.report()
        else:
            loop.default_exception_handler(context)


def connection_limit() -> ConnectionLimit:
    """Return the limit for this process, from the number of files that it may open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return ConnectionLimit(MAX_CONNECTIONS)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return ConnectionLimit(MAX_CONNECTIONS)
    return ConnectionLimit(min(MAX_CONNECTIONS, max(files - OTHER_FILES, files // 4)))


class LimitedConfig(uvicorn.Config):
    """Uvicorn's configuration of a server with a limit of connections."""

    def __init__(self, app: FastAPI, limit: ConnectionLimit, **options: Any) -> None:
        super().__init__(app, http=LimitedProtocol, backlog=ACCEPTED_AT_ONCE, **options)
        self.limit = limit


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP protocol, with a limit of connections and of the time for a request."""

    config: LimitedConfig

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admit a connection."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._await_request()
        self.config.limit.admit(self, len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Handle data of the client."""
        self._received += len(data)
        super().data_received(data)
        if self._is_received:
            self._end_wait()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._await_request()
        super().on_response_complete()
        if self._is_received:  # the next request was received already
            self._end_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a closed connection."""
        self._end_wait()
        super().connection_lost(exc)

    @property
    def _is_received(self) -> bool:
        """Whether a request was received to its end, and its response is not complete."""
        return self.conn.their_state in (h11.DONE, h11.MUST_CLOSE)

    def _await_request(self) -> None:
        self._end_wait()
        self._received = 0
        self._began = self.loop.time()
        self.config.limit.waiting[self] = None
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._check)

    def _end_wait(self) -> None:
        self.config.limit.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """Close the connection if the client was too slow."""
        deadline = self._began + REQUEST_SECONDS + self._received / SLOWEST_RATE
        if deadline <= self.loop.time():
            self.transport.abort()
        else:
            self._timer = self.loop.call_at(deadline, self._check)
