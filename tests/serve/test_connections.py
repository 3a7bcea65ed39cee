"""Clients that connect and send nothing, or never to the end: others are served all the same."""

import errno
import socket
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.serve.test_shutdown import CHAT, Process, process
from tests.serve.wire import ENDLESS, HELLO, Caller, is_idle, running, until
from wkv.errors import InputError
from wkv.serve import connections
from wkv.serve.app import create_app
from wkv.serve.connections import ConnectionLimit, LimitedConfig
from wkv.serve.run import bind
from wkv.serve.service import Limits, ServerSettings

HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"
HALF_BODY = HALF_HEAD + b'ngth: 1000\r\nContent-Type: application/json\r\n\r\n{"mess'
BODY = {"messages": HELLO, "max_tokens": 2}


class FewFiles(Process):
    """A server that may open few files."""

    command = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)); "
        + Process.command
    )


@pytest.mark.parametrize("beginning", [b"", HALF_HEAD, HALF_BODY], ids=["silent", "head", "body"])
def test_others_are_served_beside_hundreds_that_never_finish_a_request(tmp_path, beginning):
    with process(tmp_path, kind=FewFiles) as server, ExitStack() as open_sockets:
        for _ in range(300):
            caller = open_sockets.enter_context(Caller(server.address))
            caller.socket.sendall(beginning)
        for _ in range(5):
            with httpx.Client(base_url=server.address, timeout=30) as client:
                assert client.post(CHAT, json=BODY).status_code == 200
        server.ask()
        code, log = server.end()
    assert code == 0
    assert len(log) < 2000
    assert "Traceback" not in log


@contextmanager
def limited(demo, largest=100):
    """Serve with a limit of connections."""
    app = create_app(demo, ServerSettings("test"), Limits(cache_bytes=2**26))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = LimitedConfig(app, ConnectionLimit(largest), log_level="error")
        with running(config, listening) as address:
            yield address, app.state.service


@pytest.mark.parametrize("beginning", [b"", HALF_HEAD, HALF_BODY], ids=["silent", "head", "body"])
def test_a_request_that_does_not_end_in_time_is_closed(demo, monkeypatch, caplog, beginning):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with limited(demo) as (address, _), Caller(address) as caller:
        caller.socket.sendall(beginning)
        assert caller.is_closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_an_upload_that_does_not_end_in_time_is_closed_without_a_traceback(
    demo, monkeypatch, caplog
):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.3)
    with limited(demo) as (address, _), Caller(address) as caller:
        binary = {"Content-Type": "application/octet-stream", "Content-Length": "1000"}
        caller.send("/v1/states/upload", b"half", **binary)
        assert caller.is_closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_reply_may_take_longer_than_a_request(demo, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    body = ENDLESS | {"max_tokens": 400}
    with limited(demo) as (address, _), httpx.Client(base_url=address, timeout=60) as client:
        for _ in range(2):
            answer = client.post(CHAT, json=body)
            assert answer.json()["usage"]["completion_tokens"] == 400


def test_replies_are_never_closed_for_new_connections(demo):
    with limited(demo, largest=3) as (address, service), ExitStack() as stack:
        streams = [stack.enter_context(Caller(address)) for _ in range(3)]
        for caller in streams:
            caller.send(CHAT, ENDLESS | {"stream": True})
        until(lambda: service.scheduler_thread.load.running == 3)
        for _ in range(10):
            assert stack.enter_context(Caller(address)).is_closed()
        assert service.scheduler_thread.load.running == 3
        for caller in streams:
            caller.socket.close()
        until(lambda: is_idle(service))
        assert httpx.get(f"{address}/health").status_code == 200


def test_nobody_connects_before_the_model_is_loaded():
    with bind("127.0.0.1", 0, 60) as bound, socket.socket() as client:
        assert client.connect_ex(bound.getsockname()) == errno.ECONNREFUSED


def test_a_port_in_use_is_reported_at_once():
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(InputError, match="is another server running"),
    ):
        bind("127.0.0.1", other.getsockname()[1], 60)
