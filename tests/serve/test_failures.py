"""Models that fail: who is told, who is not disturbed, and that the server goes on."""

import httpx
import pytest
import torch

from tests.serve.wire import HELLO, Background, is_idle, slow, stream, text_of, until

DRAWN = {"messages": HELLO, "seed": 7, "temperature": 1.5, "top_p": 1, "max_tokens": 60}
OTHER = [{"role": "user", "content": "Who are you?"}]
CHAT = "/v1/chat/completions"


@pytest.fixture
def fresh(serve, demo):
    """Give a client and a service whose cache nobody has used."""
    with (
        serve(demo) as (address, service),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client, service
        until(lambda: is_idle(service))


def spoil(monkeypatch, model, rows, *, when=lambda tokens: True, after=0, value=float("nan")):
    """Let some rows of the logits hold no numbers, once `after` such passes have gone by."""
    forward = model.forward
    passes = []

    def spoilt(tokens, state=None, **kwargs):
        out, state = forward(tokens, state, **kwargs)
        wide = torch.as_tensor(tokens).reshape(state.batch_size, -1)
        if when(wide):
            passes.append(True)
            if len(passes) > after:
                logits = state.logits.clone()
                logits[rows] = value
                for layer in state.layers:
                    layer.wkv[rows] = value
                state = type(state)(
                    state.layers, state.tokens_seen, state.generation, state.identity, logits
                )
        return out, state

    monkeypatch.setattr(model, "forward", spoilt)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_no_numbers_in_one_slot_fail_it_alone(fresh, demo, monkeypatch, streams, value):
    client, service = fresh
    long = DRAWN | {"ignore_eos": True}  # so that it is still there when the other comes
    alone = text_of(stream(client, **long))
    service.scheduler_thread.scheduler.cache.clear()
    slow(monkeypatch, demo, 0.05)
    neighbor = Background(stream, client, **long)
    until(lambda: service.scheduler_thread.load.running == 1)
    two = {"when": lambda wide: wide.shape == (2, 1), "after": 3}
    spoil(monkeypatch, demo, [1], value=value, **two)
    body = DRAWN | {"messages": OTHER, "temperature": 1}
    if streams:
        chunks = stream(client, **body)
        assert chunks[-1]["error"]["message"]
        assert not [c for chunk in chunks[:-1] for c in chunk["choices"] if c["finish_reason"]]
    else:
        answer = client.post(CHAT, json=body)
        assert answer.status_code == 500, answer.text
        assert answer.json()["error"]["type"] == "server_error"
    assert text_of(neighbor.result()) == alone
    until(lambda: is_idle(service))
    monkeypatch.undo()
    for kept in service.scheduler_thread.scheduler.cache._nodes.values():
        assert bool(torch.isfinite(kept.state.logits).all())
        assert all(bool(torch.isfinite(layer.wkv).all()) for layer in kept.state.layers)
    assert client.post(CHAT, json=body).json()["choices"][0]["message"]["content"]


def test_no_numbers_after_a_prompt_are_told_and_not_kept(fresh, demo, monkeypatch):
    client, service = fresh
    spoil(monkeypatch, demo, [0])
    answer = client.post(CHAT, json=DRAWN)
    assert answer.status_code == 500
    assert len(service.scheduler_thread.scheduler.cache) == 0
    answer = client.post("/v1/states", json={"prompt": "Once upon a time"})
    assert answer.status_code == 500, answer.text
    assert client.get("/v1/states").json()["data"] == []
    monkeypatch.undo()
    assert client.post(CHAT, json=DRAWN).status_code == 200


def fail_once(monkeypatch, owner, name, error):
    """Let the next call raise."""
    original = getattr(owner, name)
    calls = []

    def failing(*args, **kwargs):
        calls.append(True)
        if len(calls) == 1:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), OSError("disk")])
def test_a_model_that_raises_is_told_and_serves_again(fresh, demo, monkeypatch, error):
    client, _ = fresh
    fail_once(monkeypatch, demo, "forward", error)
    answer = client.post(CHAT, json=DRAWN)
    assert answer.status_code == 500
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert client.post(CHAT, json=DRAWN).status_code == 200
    assert client.get("/health").status_code == 200


def test_a_model_that_raises_ends_each_stream_with_an_error(fresh, demo, monkeypatch):
    client, service = fresh
    slow(monkeypatch, demo, 0.02)
    streams = [Background(stream, client, **DRAWN | {"seed": seed}) for seed in range(3)]
    until(lambda: service.scheduler_thread.load.running == 3)
    fail_once(monkeypatch, demo, "forward", RuntimeError("boom"))
    for one in streams:
        chunks = one.result(20)
        assert chunks[-1]["error"]["type"] == "server_error"
    monkeypatch.undo()
    assert text_of(stream(client, **DRAWN))


@pytest.mark.parametrize("where", ["find", "put"])
def test_a_cache_that_raises_leaves_nobody_waiting(fresh, monkeypatch, where):
    client, service = fresh
    fail_once(monkeypatch, service.scheduler_thread.scheduler.cache, where, RuntimeError("damaged"))
    answer = Background(client.post, CHAT, json=DRAWN).result(20)
    assert answer.status_code in (200, 500)
    assert client.post(CHAT, json=DRAWN).status_code == 200


def test_a_writer_that_cannot_begin_leaves_nobody_waiting(fresh, monkeypatch):
    client, service = fresh
    fail_once(
        monkeypatch, service.scheduler_thread.scheduler._decode, "add", RuntimeError("damaged")
    )
    answer = Background(client.post, CHAT, json=DRAWN).result(20)
    assert answer.status_code == 500
    assert client.post(CHAT, json=DRAWN).status_code == 200


def test_an_embedding_that_fails_is_told_and_fails_nobody_else(fresh, demo, monkeypatch):
    client, service = fresh
    alone = text_of(stream(client, **DRAWN))
    slow(monkeypatch, demo, 0.01)
    neighbor = Background(stream, client, **DRAWN)
    until(lambda: service.scheduler_thread.load.running == 1)
    fail_once(monkeypatch, demo, "hidden", RuntimeError("boom"))
    answer = client.post("/v1/embeddings", json={"input": "Hello"})
    assert answer.status_code == 500
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert text_of(neighbor.result()) == alone


def test_a_disk_that_is_full_is_told(fresh, monkeypatch):
    from wkv.models.state import State

    client, _ = fresh

    def save(self, path, metadata=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(State, "save", save)
    answer = client.post("/v1/states", json={"prompt": "Once"})
    assert answer.status_code == 507
    assert answer.json()["error"]["message"]
    monkeypatch.undo()
    assert client.post("/v1/states", json={"prompt": "Once"}).status_code == 201


def test_an_engine_that_has_died_is_told_by_health(serve, demo, monkeypatch):
    with (
        serve(demo) as (address, service),
        httpx.Client(base_url=address, timeout=20) as client,
    ):
        assert client.get("/health").status_code == 200
        service.scheduler_thread._ends = True
        service.scheduler_thread.scheduler.wake()
        until(lambda: not service.scheduler_thread.is_alive)
        assert client.get("/health").status_code == 503


def test_an_engine_that_is_thrown_at_goes_on(serve, demo):
    class Thrown(BaseException):
        """What a library in another language may throw."""

    with serve(demo) as (address, service), httpx.Client(base_url=address, timeout=30) as client:
        scheduler = service.scheduler_thread.scheduler
        step = scheduler.step

        def throws():
            scheduler.step = step
            raise Thrown

        scheduler.step = throws
        body = {"messages": [{"role": "user", "content": "Hello"}]}
        first = client.post("/v1/chat/completions", json=body)
        assert first.status_code in (200, 500)  # it may have been asked before or after
        assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert client.get("/health").status_code == 200
