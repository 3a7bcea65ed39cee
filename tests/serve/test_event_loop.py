"""The event loop does no work whose amount a client decides; events have one line each."""

import json
import threading

import httpx
import pytest

from tests.serve.wire import HELLO
from wkv.batching import TextEvent
from wkv.serve import read_body, stream_reply
from wkv.serve.parse_reply import ReplyParser
from wkv.serve.routes import chat, completions, embeddings

CALLS = [
    ("/v1/chat/completions", {"messages": HELLO, "logprobs": True, "max_tokens": 3}),
    ("/v1/completions", {"prompt": "x", "logprobs": 1, "echo": True, "max_tokens": 3}),
    ("/v1/embeddings", {"input": "x"}),
    ("/v1/responses", {"input": "x", "max_output_tokens": 3}),
    ("/v1/states", {"prompt": "x"}),
    ("/tokenize", {"content": "x"}),
    ("/detokenize", {"tokens": [65]}),
]


def record_threads(monkeypatch, owner, name, threads):
    original = getattr(owner, name)

    def recorded(*args, **kwargs):
        threads.add(threading.current_thread())
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, recorded)


@pytest.mark.parametrize(("path", "body"), CALLS, ids=[path for path, _ in CALLS])
def test_bodies_are_read_and_built_in_other_threads(client, monkeypatch, path, body):
    workers = set()
    for owner, name in (
        (read_body, "validated"),
        (chat, "logprobs_body"),
        (completions, "_logprobs_body"),
        (embeddings, "_encode"),
        (stream_reply, "_json_pieces"),
    ):
        record_threads(monkeypatch, owner, name, workers)
    assert client.post(path, json=body).status_code in (200, 201)
    assert workers
    assert all("AnyIO worker" in thread.name for thread in workers)


VALUES = [
    None,
    {},
    [],
    {"a": [], "b": {}, "c": [1] * 300, "d": [{"x": "\u2028é"}] * 130},
    [[1.5, True, None, "a"]] * 129,
    {"é\u2029": [{"a": [list(range(400))]}]},
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_pieces_of_json_are_the_json_of_the_whole(value):
    pieces = list(stream_reply._json_pieces(value))
    assert "".join(pieces) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert max(map(len, pieces)) < 3000


ENDS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj\nk"


def test_an_event_is_one_line_for_every_client():
    reply = ReplyParser("")
    [delta] = reply.push(TextEvent(0, ENDS, 1))
    event = stream_reply._format_event({"type": "x", "delta": delta, ENDS: 1})
    assert len(event.splitlines()) == 3  # the name, the data, and an empty line
    assert json.loads(event.splitlines()[1].removeprefix("data: "))["delta"]["content"] == ENDS


def test_streamed_line_ends_come_whole(client):
    body = {"prompt": ENDS, "echo": True, "max_tokens": 0, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        data = b"".join(answer.iter_raw()).decode()
    events = [line.removeprefix("data: ") for line in data.splitlines() if line]
    assert json.loads(events[0])["choices"][0]["text"] == ENDS
    assert events[-1] == "[DONE]"


def test_a_client_that_leaves_while_it_sends_is_no_error(served):
    with httpx.Client(base_url=served[0]) as client:
        with pytest.raises(RuntimeError):
            client.post("/tokenize", content=_broken_body(), headers={"Content-Length": "1000"})
        assert client.get("/health").status_code == 200


def _broken_body():
    yield b"{"
    raise RuntimeError
