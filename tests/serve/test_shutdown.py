"""The real process: it greets, drains, stops, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.serve.wire import ENDLESS, HELLO, Background, Caller, chunks_of, stream, text_of, until

CHAT = "/v1/chat/completions"
SECRET = "correct-horse-battery-staple"


class Process:
    """A server in a process of its own."""

    command = "import sys; from wkv.cli import main; sys.exit(main())"

    def __init__(self, folder, *options, **environment):
        self.log = folder / "stderr.txt"
        self.temporary = folder / "temporary"
        self.temporary.mkdir(exist_ok=True)
        command = [sys.executable, "-c", self.command, "serve", "--port", "0", "--threads", "1"]
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [*command, *options],
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"TMPDIR": str(self.temporary)} | environment,
                cwd=Path(__file__).resolve().parents[2],
            )
        self.told = ""
        while "\nAPI " not in self.told:
            line = self.popen.stdout.readline().decode()
            assert line, self.log.read_text()
            self.told += line
        self.address = re.search(r"(http://\S+)/v1\s", self.told)[1]
        self.client = httpx.Client(
            base_url=self.address, timeout=60, headers={"Authorization": f"Bearer {SECRET}"}
        )
        until(self._answers)

    def _answers(self):
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, kind=signal.SIGTERM):
        self.popen.send_signal(kind)

    def end(self, seconds=30):
        """Wait for its end; returns its code and what it wrote to stderr."""
        code = self.popen.wait(seconds)
        self.told += self.popen.stdout.read().decode()
        return code, self.log.read_text()


@contextmanager
def process(folder, *options, kind=Process, **environment):
    one = kind(folder, *options, **environment)
    try:
        yield one
    finally:
        one.client.close()
        if one.popen.poll() is None:
            one.popen.kill()
            one.popen.wait(10)
        one.popen.stdout.close()


def health(one):
    try:
        return httpx.get(f"{one.address}/health", timeout=10).status_code
    except httpx.TransportError:
        return None


def writing(one):
    return httpx.get(f"{one.address}/health", timeout=10).json()["writing"]


def connections(one):
    port = int(one.address.rpartition(":")[2])
    its = psutil.Process(one.popen.pid).net_connections("tcp")
    return [c for c in its if c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Give a server with a key, from the environment, that gives slow readers up soon."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = {"WKV_SERVE_NAME": "other", "WKV_SERVE_API_KEY": SECRET}
    with process(folder, "--idle-seconds", "1", **settings) as one:
        yield one


def test_options_are_read_from_the_environment(guarded):
    assert re.search(r"^API +http://127\.0\.0\.1:\d+/v1$", guarded.told, re.M)
    assert httpx.get(f"{guarded.address}/v1/models").status_code == 401
    [model] = guarded.client.get("/v1/models").json()["data"]
    assert model["id"] == "other"


def test_a_taken_port_is_told_in_a_line(guarded):
    port = guarded.address.rpartition(":")[2]
    command = [sys.executable, "-m", "wkv", "serve", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert port in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_the_connection_of_who_reads_nothing_is_closed(guarded, streams):
    """Else each of them would keep a connection, and buffers, for ever."""
    key = {"Authorization": f"Bearer {SECRET}"}
    guarded.client.close()
    guarded.client = httpx.Client(base_url=guarded.address, timeout=60, headers=key)
    until(lambda: not connections(guarded))
    with Caller(guarded.address, buffer=2**12) as caller:
        if streams:
            loud = {"stream": True, "logprobs": True, "top_logprobs": 20}
            caller.send(CHAT, ENDLESS | loud, **key)
        else:
            caller.send("/tokenize", {"content": "a " * 2_000_000}, **key)
        until(lambda: connections(guarded))
        until(lambda: not connections(guarded), 45)
    assert guarded.client.post(CHAT, json={"messages": HELLO}).status_code == 200


def test_neither_prompts_nor_keys_are_logged(guarded):
    children = psutil.Process(guarded.popen.pid).children(recursive=True)
    for content in ("my PIN is 4711-0815", "line\r\nFORGED: entry 4711-0815"):
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 2}
        assert guarded.client.post(CHAT, json=body).status_code == 200
        assert guarded.client.post(CHAT, json=body | {content: 1}).status_code == 400
        for key in ("", "Bearer 4711-0815", "Bearer FORGED"):
            wrong = {"Authorization": key}
            assert guarded.client.post(CHAT, json=body, headers=wrong).status_code == 401
    guarded.client.get("/4711-0815%0d%0aFORGED")
    guarded.client.post("/v1/states", json={"prompt": "4711-0815"})
    with Caller(guarded.address) as caller:
        caller.socket.sendall(b"4711-0815 / FORGED\r\nHost: x\r\n\r\n")
        caller.is_closed()
    guarded.ask(signal.SIGINT)
    code, log = guarded.end(15)
    assert code == 0, log
    for text in (log, guarded.told):
        for mark in (SECRET, "4711-0815", "FORGED", "Traceback"):
            assert mark not in text, log
    assert list(guarded.temporary.iterdir()) == []
    assert not [child for child in children if child.is_running()]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{guarded.address}/health")


def test_what_goes_on_ends_and_nothing_new_begins(tmp_path):
    body = {"messages": HELLO, "ignore_eos": True, "max_tokens": 500, "seed": 1, "temperature": 1}
    with process(tmp_path) as one:
        texts = ["There was once a man who had a dog. " * 100] * 15
        embedding = Background(
            httpx.post, f"{one.address}/v1/embeddings", json={"input": texts}, timeout=60
        )
        with one.client.stream("POST", CHAT, json=body | {"stream": True, "n": 4}) as answer:
            whole = Background(httpx.post, one.address + CHAT, json=body, timeout=60)
            until(lambda: writing(one) == 5)
            one.ask()
            until(lambda: health(one) == 503, 2)
            refused = [
                httpx.post(one.address + path, json=asked, timeout=10)
                for path, asked in (
                    (CHAT, {"messages": HELLO}),
                    ("/v1/embeddings", {"input": "x"}),
                    ("/v1/completions", {"prompt": "x"}),
                    ("/v1/states", {"prompt": "x"}),
                )
            ]
            assert writing(one) == 5  # all of this came before the end of what went on
            chunks = chunks_of(answer)
        reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
        assert [reason for reason in reasons if reason] == ["length"] * 4
        assert whole.result().json()["choices"][0]["finish_reason"] == "length"
        assert text_of(chunks) == whole.result().json()["choices"][0]["message"]["content"]
        assert embedding.result().status_code == 200, embedding.result().text[:200]
        assert len(embedding.result().json()["data"]) == 15
        for answer in refused:
            assert answer.status_code in (429, 503)
            assert int(answer.headers["retry-after"]) > 0
        code, log = one.end()
    assert code == 0, log
    assert "Traceback" not in log


def test_what_does_not_end_in_time_is_told(tmp_path):
    with process(tmp_path, "--drain-seconds", "1") as one:
        streamed = Background(stream, one.client, **ENDLESS)
        whole = Background(httpx.post, one.address + CHAT, json=ENDLESS, timeout=60)
        until(lambda: writing(one) == 2)
        begun = time.monotonic()
        one.ask()
        code, log = one.end(20)
        took = time.monotonic() - begun
        chunks = streamed.result()
        last = chunks[-1]
        told = "error" in last or last["choices"][0]["finish_reason"]
        assert told, last
        answer = whole.result()
        assert answer.status_code in (200, 500, 503)
        assert answer.json()
    assert code == 0, log
    assert took < 10
    assert "Traceback" not in log


def test_a_second_signal_stops_at_once(tmp_path):
    with process(tmp_path) as one, Caller(one.address) as caller:
        caller.send(CHAT, ENDLESS | {"stream": True, "n": 16})
        until(lambda: writing(one) == 16)
        one.ask()
        until(lambda: health(one) == 503, 5)
        begun = time.monotonic()
        one.ask()
        code, log = one.end(15)
        assert caller.is_closed()
    assert code == 0, log
    assert time.monotonic() - begun < 8
    assert list(one.temporary.iterdir()) == []


def test_a_killed_server_leaves_whole_states(tmp_path):
    kept = tmp_path / "kept"
    system = {"role": "system", "content": "You are kind. " * 30}
    with process(tmp_path, "--cache-dir", str(kept)) as one:
        name = one.client.post("/v1/states", json={"messages": [system]}).json()["id"]
        messages = [system, *HELLO]
        first = one.client.post(CHAT, json={"messages": messages}).json()
        for number in range(5):
            one.client.post(
                CHAT, json={"messages": [system, {"role": "user", "content": str(number)}]}
            )
        one.ask(signal.SIGKILL)
        assert one.popen.wait(10) == -signal.SIGKILL
    with process(tmp_path, "--cache-dir", str(kept)) as one:
        assert [state["id"] for state in one.client.get("/v1/states").json()["data"]] == [name]
        again = one.client.post(CHAT, json={"messages": messages}).json()
        assert again["choices"] == first["choices"]
        answer = one.client.post(CHAT, json={"messages": HELLO, "state": name})
        assert answer.json()["choices"] == first["choices"]
        one.ask()
        code, log = one.end(15)
    assert code == 0, log
    # What was just being written is of no use, and is swept up when the folder is tidied.
    assert len(list(kept.rglob("*.partial"))) <= 2
