"""Running of the application until a signal stops it; running requests may finish before."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from wkv.errors import InputError
from wkv.serve.connections import LimitedConfig, connection_limit
from wkv.serve.service import Service

ABORT_SECONDS = 2.0
"""Time to send the errors of aborted requests."""

BACKLOG = 2048
"""Connections that wait for the server to accept them."""

Notify = Callable[[str], None]


def bind(host: str, port: int, idle_seconds: float) -> socket.socket:
    """Return a socket with an address; port 0 selects any free port.

    It does not listen yet, so that nobody waits for a model that is still being loaded. The system
    closes connections whose client has acknowledged nothing for `idle_seconds`.

    Raises:
        InputError: if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol. The algorithm
    # would delay each event by up to 40 ms, until the client acknowledges the one before.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        raise _address_error(host, port, error) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere the socket stays open for longer
        listening.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(idle_seconds * 1000))
        )
    return listening


def run(
    app: FastAPI, listening: socket.socket, on_ready: Callable[[], None], notify: Notify
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let requests finish; a second signal stops at once.

    Args:
        app: the result of `create_app`.
        listening: the result of `bind`.
        on_ready: called when the server accepts requests and handles signals.
        notify: prints a notice.

    Raises:
        InputError: if another process has begun to listen on the address in the meantime.
    """
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        host, port = listening.getsockname()[:2]
        raise _address_error(host, port, error) from error
    service: Service = app.state.service
    # asyncio logs a warning for each client that disconnects while data is sent to it.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    config = LimitedConfig(
        app,
        connection_limit(),
        ws="none",
        log_level="error",  # anybody could fill the disk with warnings about invalid requests
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    try:
        Server(config, service, on_ready, notify).run([listening])
    finally:  # after a second signal, the application's lifespan does not end by itself
        service.scheduler_thread.close()


def _address_error(host: str, port: int, error: Exception) -> InputError:
    in_use = getattr(error, "errno", None) == errno.EADDRINUSE
    hint = "is another server running? give another --port"
    hint = hint if in_use else "give an address of this machine with --host"
    return InputError(f"the server cannot listen on {host}:{port} ({error}); {hint}")


class Server(uvicorn.Server):
    """Uvicorn's server, which drains the scheduler before it stops, and then exits with 0."""

    def __init__(
        self,
        config: LimitedConfig,
        service: Service,
        on_ready: Callable[[], None],
        notify: Notify,
    ) -> None:
        super().__init__(config)
        self._limit = config.limit
        self._service = service
        self._on_ready = on_ready
        self._notify = notify
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests, and report it."""
        asyncio.get_running_loop().set_exception_handler(self._limit.on_loop_error)
        await super().startup(sockets=sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)  # uvicorn has set it to the number that is accepted at once
        if not self.should_exit:
            self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM in this context."""
        self._loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._stop) for number in signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop_in_loop)

    def _stop_in_loop(self) -> None:
        if self._draining is not None:
            self._notify("stopping at once")
            # uvicorn would log each request that is interrupted.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            self.should_exit = self.force_exit = True
            return
        # From now on, /health returns 503 and new requests are refused.
        self._service.scheduler_thread.is_closing = True
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        thread, load = self._service.scheduler_thread, self._service.scheduler_thread.load
        if not load.is_idle:
            seconds = self._service.settings.drain_seconds
            requests = load.running + load.prefilling + load.queued + load.tasks
            self._notify(
                f"waiting up to {seconds:g} s for {requests} running requests; "
                "press Ctrl-C again to stop at once"
            )
            await thread.drain(seconds)
        if not thread.load.is_idle:
            self._notify("some requests did not finish in time; they end with an error")
            thread.abort()
            await thread.drain(ABORT_SECONDS)
        self._limit.close_waiting()
        self.should_exit = True
