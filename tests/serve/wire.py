"""What tests of the server share: bare connections, models made slow, and waiting."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import uvicorn

from wkv.serve.app import create_app
from wkv.serve.service import Limits, ServerSettings

HELLO = [{"role": "user", "content": "Hello"}]

ENDLESS = {
    "messages": HELLO,
    "ignore_eos": True,
    "max_tokens": 100_000,
    "temperature": 1,
    "top_p": 1,
}
"""A chat that goes on until somebody stops it."""


class Caller:
    """A bare connection, for what no well-behaved client does."""

    def __init__(self, address, buffer=None):
        parts = urlsplit(address)
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(30)
        self.socket.connect((parts.hostname, parts.port))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, path, body, method="POST", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Host": "localhost", "Content-Type": "application/json"}
        told |= {"Content-Length": str(len(data))} | headers
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in told.items())]
        self.socket.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data)

    def read_until(self, end=b"\n\n", most=2**20):
        data = b""
        while end not in data and len(data) < most:
            more = self.socket.recv(65536)
            if not more:
                break
            data += more
        return data

    def is_closed(self):
        """Whether the server has closed, or closes while what is left is read."""
        self.socket.settimeout(5)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


def until(happens, seconds=15):
    """Wait until something is so; returns how long it took."""
    begun = time.monotonic()
    while not happens():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"it has not happened within {seconds} s")
        time.sleep(0.005)
    return time.monotonic() - begun


def is_idle(service):
    load = service.scheduler_thread.load
    return not (load.running or load.prefilling or load.queued)


def slow(monkeypatch, model, seconds, name="forward"):
    """Let each pass through the model take some time."""
    original = getattr(model, name)

    def slowly(*args, **kwargs):
        time.sleep(seconds)
        return original(*args, **kwargs)

    monkeypatch.setattr(model, name, slowly)


class Background(threading.Thread):
    """Something that goes on beside the test; `result` waits for it."""

    def __init__(self, work, *args, **kwargs):
        super().__init__(daemon=True)
        self._work = lambda: work(*args, **kwargs)
        self._value, self._error = None, None
        self.start()

    def run(self):
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def result(self, seconds=60):
        self.join(seconds)
        assert not self.is_alive(), "it still goes on"
        if self._error is not None:
            raise self._error
        return self._value


def chunks_of(answer):
    """The events of a streamed answer that is well formed: JSON, then [DONE], then nothing."""
    lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines), lines
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def text_of(chunks, index=0):
    choices = [c for chunk in chunks for c in chunk.get("choices", ()) if c["index"] == index]
    return "".join(c["delta"].get("content") or "" for c in choices)


def stream(client, path="/v1/chat/completions", **body):
    with client.stream("POST", path, json={"stream": True, **body}) as answer:
        assert answer.status_code == 200, answer.read()
        return chunks_of(answer)


@contextmanager
def running(config, listening):
    """Run a server in a thread on a socket that listens; gives its address."""
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    until(lambda: server.started or not thread.is_alive(), seconds=60)
    assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@contextmanager
def narrow(model, **settings):
    """Serve a model over connections with small buffers, which are full soon."""
    app = create_app(model, ServerSettings("test", **settings), Limits(cache_bytes=2**26))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**14)
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        with running(config, listening) as address:
            yield address, app.state.service
