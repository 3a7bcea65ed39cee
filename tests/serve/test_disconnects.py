"""Clients that go away: their slots are free at once, and nobody else notices."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.serve.wire import (
    ENDLESS,
    HELLO,
    Background,
    Caller,
    is_idle,
    slow,
    stream,
    text_of,
    until,
)

SECONDS = 3
"""In which a slot must be free: 0.3 s here at most; generous, as the machine may be busy."""

PATHS = {
    "/v1/chat/completions": ENDLESS,
    "/v1/completions": {"prompt": "Once", "ignore_eos": True, "max_tokens": 100_000},
}
DRAWN = {"messages": HELLO, "seed": 7, "temperature": 1.5, "top_p": 1, "max_tokens": 40}
LONG = "There was once a man who had a dog and a house by the sea. " * 400


@pytest.fixture
def service(served):
    yield served[1]
    until(lambda: is_idle(served[1]))


def leave(served, path, body, arrived):
    """Ask, go away once `arrived` says so; returns how long the slot stayed taken."""
    address, service = served
    with Caller(address) as caller:
        caller.send(path, body)
        until(arrived)
    return until(lambda: is_idle(service))


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("path", PATHS)
def test_a_slot_is_free_soon_after_its_client_has_gone(served, service, path, streams):
    body = PATHS[path] | {"stream": streams}
    took = leave(served, path, body, lambda: service.scheduler_thread.load.running == 1)
    assert took < SECONDS


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_several_choices_and_prompts_are_given_up_together(served, service, streams):
    body = PATHS["/v1/completions"] | {"stream": streams, "prompt": ["a", "b"], "n": 3}
    took = leave(
        served, "/v1/completions", body, lambda: service.scheduler_thread.load.running == 6
    )
    assert took < SECONDS


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_who_goes_away_while_the_prompt_is_read_is_not_read_on(
    served, service, demo, monkeypatch, streams
):
    slow(monkeypatch, demo, 0.05)  # some 5 s in all
    body = ENDLESS | {"stream": streams, "messages": [{"role": "user", "content": LONG * 4}]}
    took = leave(
        served, "/v1/chat/completions", body, lambda: service.scheduler_thread.load.prefilling == 1
    )
    assert took < SECONDS


def test_who_goes_away_while_a_state_is_made_is_not_read_on(served, service, demo, monkeypatch):
    slow(monkeypatch, demo, 0.05)
    body = {"prompt": LONG * 4}
    assert (
        leave(served, "/v1/states", body, lambda: service.scheduler_thread.load.prefilling == 1)
        < SECONDS
    )


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_who_goes_away_in_the_queue_leaves_it(serve, demo, monkeypatch, streams):
    from wkv.serve.service import Limits

    slow(monkeypatch, demo, 0.01)
    with (
        serve(demo, Limits(slots=1, cache_bytes=2**24)) as (address, service),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        alone = text_of(stream(client, **DRAWN))
        first = Background(stream, client, **DRAWN)
        until(lambda: service.scheduler_thread.load.running == 1)
        with Caller(address) as caller:
            caller.send("/v1/chat/completions", ENDLESS | {"stream": streams})
            until(lambda: service.scheduler_thread.load.queued == 1)
        assert until(lambda: service.scheduler_thread.load.queued == 0) < SECONDS
        assert text_of(first.result()) == alone
        until(lambda: is_idle(service))


def test_a_client_that_goes_away_changes_nobody_elses_text(
    client, served, service, demo, monkeypatch
):
    alone = text_of(stream(client, **DRAWN))
    slow(monkeypatch, demo, 0.01)
    neighbor = Background(stream, client, **DRAWN)
    for streams in (True, False):
        with Caller(served[0]) as caller:
            caller.send("/v1/chat/completions", ENDLESS | {"stream": streams})
            until(lambda: service.scheduler_thread.load.running >= 2)
    assert text_of(neighbor.result()) == alone


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_who_waits_for_the_same_beginning_gets_it_when_its_reader_goes_away(
    client, served, service, demo, monkeypatch, streams
):
    content = f"{streams} {LONG[:8000]}"
    body = DRAWN | {"messages": [{"role": "user", "content": content}], "max_tokens": 8}
    slow(monkeypatch, demo, 0.1)
    with Caller(served[0]) as caller:
        caller.send("/v1/chat/completions", body | {"stream": streams})
        until(lambda: service.scheduler_thread.load.prefilling == 1)
        waiting = [Background(client.post, "/v1/chat/completions", json=body) for _ in range(3)]
        until(lambda: service.scheduler_thread.load.prefilling == 4)
    answers = [one.result().json() for one in waiting]
    service.scheduler_thread.scheduler.cache.clear()
    alone = client.post("/v1/chat/completions", json=body).json()
    assert alone["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert [answer["choices"] for answer in answers] == [alone["choices"]] * 3


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("path", PATHS)
def test_who_goes_away_before_the_request_is_understood_takes_no_slot_for_long(
    served, service, monkeypatch, path, streams
):

    taken = []
    encode = type(service.model.tokenizer).encode

    def slowly(tokenizer, text):
        taken.append(True)
        time.sleep(0.5)
        return encode(tokenizer, text)

    monkeypatch.setattr(type(service.model.tokenizer), "encode", slowly)

    with Caller(served[0]) as caller:
        caller.send(path, PATHS[path] | {"stream": streams})
        until(lambda: taken)
    time.sleep(1)  # it is submitted by now
    assert until(lambda: is_idle(service)) < SECONDS


def test_an_embedding_that_nobody_waits_for_fails_nobody_else(
    client, served, service, demo, monkeypatch
):
    alone = text_of(stream(client, **DRAWN))
    slow(monkeypatch, demo, 0.02)
    begun = []
    hidden = demo.hidden

    def slowly(*args):
        begun.append(True)
        time.sleep(0.7)  # longer than it takes to see that the client has gone
        return hidden(*args)

    monkeypatch.setattr(demo, "hidden", slowly)
    neighbor = Background(stream, client, **DRAWN)
    until(lambda: service.scheduler_thread.load.running == 1)
    with Caller(served[0]) as caller:
        caller.send("/v1/embeddings", {"input": "Hello"})
        until(lambda: begun)
    chunks = neighbor.result()
    assert not [chunk for chunk in chunks if "error" in chunk]
    assert text_of(chunks) == alone


def test_an_embedding_that_nobody_waits_for_is_not_read_on(served, service, demo, monkeypatch):
    passes = []
    hidden = demo.hidden

    def counted(*args):
        passes.append(True)
        time.sleep(0.05)
        return hidden(*args)

    monkeypatch.setattr(demo, "hidden", counted)
    with Caller(served[0]) as caller:
        caller.send("/v1/embeddings", {"input": [LONG] * 20})
        until(lambda: passes)
    time.sleep(1)
    count = len(passes)
    time.sleep(0.5)
    assert len(passes) == count


def test_after_many_have_come_and_gone_all_is_as_before(client, served, service, demo, monkeypatch):
    alone = text_of(stream(client, **DRAWN))
    slow(monkeypatch, demo, 0.003)
    files = psutil.Process().num_fds()
    chance = random.Random(0)
    plans = [
        (chance.choice([*PATHS]), chance.random() < 0.5, chance.choice([0, 0.01, 0.05, 0.2]))
        for _ in range(60)
    ]

    def come_and_go(plan):
        path, streams, stays = plan
        body = PATHS[path] | {"stream": streams, "n": 1 + int(stays * 10)}
        with Caller(served[0]) as caller:
            caller.send(path, body)
            time.sleep(stays)

    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(come_and_go, plan) for plan in plans]
        for _ in range(5):
            answer = client.post("/v1/chat/completions", json=DRAWN)
            if answer.status_code == 200:
                assert answer.json()["choices"][0]["message"]["content"] == alone
            else:
                assert answer.status_code == 429
        for other in others:
            other.result()
    assert until(lambda: is_idle(service)) < 2 * SECONDS
    until(lambda: psutil.Process().num_fds() <= files + 4)
    assert (
        service.scheduler_thread.scheduler.cache.n_bytes
        <= service.scheduler_thread.scheduler.cache.limit
    )
    assert text_of(stream(client, **DRAWN)) == alone
