"""A server of the built-in model in a thread, and clients for it."""

import socket
from contextlib import contextmanager

import httpx
import pytest

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")

from tests.serve import wire  # noqa: E402


@contextmanager
def running(app):
    """Serve an application on a free port; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        with wire.running(config, listening) as address:
            yield address


@pytest.fixture(scope="module")
def serve():
    """Give a function to serve a model: `with serve(model, **settings) as (address, service)`."""
    from wkv.serve.app import create_app
    from wkv.serve.service import Limits, ServerSettings

    @contextmanager
    def serving(model, room=None, **settings):
        app = create_app(
            model, ServerSettings("test", **settings), room or Limits(cache_bytes=2**26)
        )
        with running(app) as address:
            yield address, app.state.service

    return serving


@pytest.fixture(scope="module")
def served(demo, serve):
    """Give the address and the service of the built-in model."""
    with serve(demo) as both:
        yield both


@pytest.fixture
def client(served):
    """Give an HTTP client of it."""
    with httpx.Client(base_url=served[0], timeout=30) as one:
        yield one
