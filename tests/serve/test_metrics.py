"""What is counted, and that nothing users send is among the names."""

import re

import httpx
import pytest

from tests.serve.wire import ENDLESS, HELLO, Caller, is_idle, stream, until
from wkv.serve.service import Limits

CHAT = "/v1/chat/completions"
LINE = re.compile(
    r'(# (TYPE|HELP) wkv_[a-z_]+ .*|wkv_[a-z_]+(\{le="([0-9.]+|\+Inf)"\})? [0-9.e+-]+)'
)


def counted(client):
    text = client.get("/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.fixture
def fresh(serve, demo):
    """Give a client and a service of which nobody has asked anything."""
    with (
        serve(demo, Limits(slots=2, queue=1, cache_bytes=2**24)) as (address, service),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        yield client, service


def test_the_form_is_prometheus_own(fresh):
    client, _ = fresh
    client.post(CHAT, json={"messages": HELLO})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text.endswith("\n")
    for line in answer.text.splitlines():
        assert LINE.fullmatch(line), line
    names = [line.split()[0] for line in answer.text.splitlines() if line[0] != "#"]
    assert len(names) == len(set(names))
    for name in names:
        plain = re.sub(r"_(bucket|sum|count)(\{.*)?$", "", name)
        kind = "counter" if name.endswith("_total") else "gauge" if plain == name else "histogram"
        assert f"# TYPE {plain} {kind}\n" in answer.text


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_requests_and_tokens_are_counted(fresh, streams):
    client, _ = fresh
    assert set(counted(client).values()) <= {0, 2}  # two slots
    usage = client.post(CHAT, json={"messages": HELLO}).json()["usage"]
    body = {"messages": HELLO, "stream_options": {"include_usage": True}} if streams else None
    again = (
        stream(client, **body)[-1]["usage"]
        if body
        else client.post(CHAT, json={"messages": HELLO}).json()["usage"]
    )
    now = counted(client)
    assert now["wkv_requests_total"] == 2
    assert now["wkv_refused_total"] == now["wkv_failed_total"] == 0
    for name in ("prompt", "completion"):
        want = usage[f"{name}_tokens"] + again[f"{name}_tokens"]
        told = now[f"wkv_{'generated' if name == 'completion' else name}_tokens_total"]
        assert told == want
    assert now["wkv_cached_tokens_total"] == again["prompt_tokens_details"]["cached_tokens"] > 0
    assert now["wkv_cache_states"] > 0
    assert now["wkv_cache_bytes"] > 0
    assert now["wkv_slots"] == 2


def test_tokens_of_completions_and_embeddings_are_counted(fresh):
    client, _ = fresh
    first = client.post("/v1/completions", json={"prompt": ["a", "b"], "max_tokens": 3}).json()
    second = client.post("/v1/embeddings", json={"input": "abc"}).json()
    now = counted(client)
    read = first["usage"]["prompt_tokens"] + second["usage"]["prompt_tokens"]
    assert now["wkv_prompt_tokens_total"] == read
    assert now["wkv_generated_tokens_total"] == first["usage"]["completion_tokens"]


def test_what_goes_on_and_what_is_refused_is_counted(fresh):
    client, service = fresh
    address = str(client.base_url)
    with Caller(address) as one, Caller(address) as two:
        one.send(CHAT, ENDLESS | {"n": 2})
        until(lambda: service.scheduler_thread.load.running == 2)
        two.send(CHAT, ENDLESS)
        until(lambda: service.scheduler_thread.load.queued == 1)
        assert client.post(CHAT, json={"messages": HELLO}).status_code == 429
        now = counted(client)
        assert now["wkv_sequences_writing"] == 2
        assert now["wkv_requests_queued"] == 1
        assert now["wkv_refused_total"] == 1
    until(lambda: is_idle(service))
    now = counted(client)
    assert now["wkv_sequences_writing"] == now["wkv_requests_queued"] == 0
    assert now["wkv_generated_tokens_total"] > 0  # what was drawn for who went away counts too


def test_failures_are_counted(fresh, demo, monkeypatch):
    client, _ = fresh
    with monkeypatch.context() as patch:

        def failing(*args, **kwargs):
            raise RuntimeError("boom")

        patch.setattr(demo, "forward", failing)
        assert client.post(CHAT, json={"messages": HELLO}).status_code == 500
    assert counted(client)["wkv_failed_total"] == 1
    assert client.post(CHAT, json={"messages": HELLO}).status_code == 200


def test_nothing_that_users_send_is_told(serve, demo):
    marks = "marked-4711"
    with serve(demo, keys=(marks,)) as (address, _):
        headers = {"Authorization": f"Bearer {marks}"}
        with httpx.Client(base_url=address, headers=headers) as client:
            body = {"messages": [{"role": "user", "content": marks}], "max_tokens": 1}
            client.post(CHAT, json=body | {"user": marks, "metadata": {marks: marks}})
            client.post(CHAT, json=body | {"model": marks})
            client.post("/v1/states", json={"prompt": marks})
            client.get(f"/v1/models/{marks}")
            client.get(f"/{marks}")
            text = client.get("/metrics").text
            assert "4711" not in text
            assert "{" not in re.sub(r'\{le="[^"]+"\}', "", text)
            assert "4711" not in httpx.get(f"{address}/health").text
