"""Running the application until it is told to stop: what goes on may end, then the process does."""

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
from wkv.serve.service import Service

ABORT_SECONDS = 2.0
"""For what was ended to be told."""

Tell = Callable[[str], None]


def bind(host: str, port: int, idle_seconds: float) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Its connections are closed when their other end has taken nothing for so long.

    Raises:
        InputError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends what it has at once; else it waits 40 ms for an answer
    # to what it sent before.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except (OSError, OverflowError) as error:
        listening.close()
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        hint = "is another server running? give another --port"
        hint = hint if taken else "give an address of this machine with --host"
        raise InputError(f"{host}:{port} cannot be listened on ({error}); {hint}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere the slot is freed, the socket later
        listening.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(idle_seconds * 1000))
        )
    return listening


def run(app: FastAPI, listening: socket.socket, ready: Callable[[], None], tell: Tell) -> None:
    """Serve until SIGTERM or Ctrl-C, then let what goes on end; a second one stops at once.

    `ready` is called when requests, and signals, are taken.
    """
    service: Service = app.state.service
    # It warns of each client that went away while something was sent to it.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=None,
    )
    try:
        Server(config, service, ready, tell).run([listening])
    finally:  # where it was stopped at once, the application was not told
        service.engine.close()


class Server(uvicorn.Server):
    """Uvicorn's server, which drains before it stops and then exits with 0."""

    def __init__(
        self, config: uvicorn.Config, service: Service, ready: Callable[[], None], tell: Tell
    ) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready
        self._tell = tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests, and say so."""
        await super().startup(sockets=sockets)
        if not self.should_exit:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals that end a process, and give them back afterwards."""
        self._loop = asyncio.get_running_loop()
        before = {kind: signal.signal(kind, self._stop) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _stop(self, kind: int, frame: FrameType | None) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop_in_loop)

    def _stop_in_loop(self) -> None:
        if self._draining is not None:
            self._tell("stopping at once")
            # It would tell of each request that is cut off, line by line.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
            self.should_exit = self.force_exit = True
            return
        # From here on /health says 503 and nothing new is taken.
        self._service.engine.is_closing = True
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        engine, load = self._service.engine, self._service.engine.load
        if not load.is_idle:
            seconds = self._service.settings.drain_seconds
            going = load.running + load.prefilling + load.queued + load.tasks
            self._tell(f"waiting {seconds:g} s for {going} to end; once more stops at once")
            await engine.drain(seconds)
        if not engine.load.is_idle:
            self._tell("not all have ended; they end with an error")
            engine.abort()
            await engine.drain(ABORT_SECONDS)
        self.should_exit = True
