"""Ten times more than fits: some are refused at once, the others answered, and nothing is left."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from tests.serve.wire import HELLO, Background, is_idle, slow, stream, until
from wkv.serve.service import Limits

CHAT = "/v1/chat/completions"
SLOTS = 4
BODY = {"messages": HELLO, "max_tokens": 20, "seed": 3, "temperature": 1.5, "top_p": 1}


@pytest.fixture
def crowded(serve, demo, monkeypatch):
    """Give a client and a service with few slots and a slow model."""
    slow(monkeypatch, demo, 0.02)
    limits = httpx.Limits(max_connections=100)
    with (
        serve(demo, Limits(slots=SLOTS, queue=4, cache_bytes=2**22)) as (address, service),
        httpx.Client(base_url=address, timeout=60, limits=limits) as client,
    ):
        yield client, service


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_ten_times_the_slots_are_answered_or_refused(crowded, streams):
    client, service = crowded
    want = client.post(CHAT, json=BODY).json()["choices"][0]["message"]["content"]
    threads, files = threading.active_count(), psutil.Process().num_fds()

    def ask(number):
        begun = time.monotonic()
        answer = client.post(CHAT, json=BODY | {"stream": streams, "user": str(number)})
        return answer, time.monotonic() - begun

    with ThreadPoolExecutor(10 * SLOTS) as pool:
        answers = list(pool.map(ask, range(10 * SLOTS)))
    statuses = [answer.status_code for answer, _ in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= SLOTS + 4
    for answer, seconds in answers:
        if answer.status_code == 200:
            if not streams:
                assert answer.json()["choices"][0]["message"]["content"] == want
            assert seconds < 30
        else:
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert int(answer.headers["retry-after"]) > 0
            assert seconds < 2  # some 0.1 s, and 40 threads on the machine
    until(lambda: is_idle(service))
    assert service.scheduler_thread.scheduler.cache.n_bytes <= 2**22
    client.close()
    until(lambda: psutil.Process().num_fds() <= files + 2)
    until(lambda: threading.active_count() <= threads + 40)  # Starlette's pool keeps its threads


def test_who_is_refused_hears_it_at_once(crowded):
    client, service = crowded
    fill = BODY | {"max_tokens": 100, "ignore_eos": True, "n": SLOTS}
    one = Background(client.post, CHAT, json=fill)
    until(lambda: service.scheduler_thread.load.running == SLOTS)
    waiting = [Background(client.post, CHAT, json=BODY) for _ in range(4)]
    until(lambda: service.scheduler_thread.load.queued == 4)
    times = []
    for _ in range(20):
        begun = time.monotonic()
        answer = client.post(CHAT, json=BODY)
        times.append(time.monotonic() - begun)
        assert answer.status_code == 429
    assert sorted(times)[10] < 0.5  # some 0.01 s
    assert client.get("/health").status_code == 200
    assert one.result().status_code == 200
    assert [w.result().status_code for w in waiting] == [200] * 4


def test_many_prompts_at_once_are_answered_by_few_slots(serve, demo):
    prompts = [f"{number}" for number in range(60)]
    with (
        serve(demo, Limits(slots=2, queue=4, cache_bytes=2**22)) as (address, service),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        body = {"max_tokens": 3, "temperature": 0}
        answer = client.post("/v1/completions", json=body | {"prompt": prompts})
        assert answer.status_code == 200, answer.text
        texts = [choice["text"] for choice in answer.json()["choices"]]
        alone = [
            client.post("/v1/completions", json=body | {"prompt": prompt}).json()["choices"][0][
                "text"
            ]
            for prompt in prompts[::10]
        ]
        assert texts[::10] == alone
        until(lambda: is_idle(service))


def test_a_server_without_a_queue_serves_who_comes_first(serve, demo):
    with (
        serve(demo, Limits(slots=1, queue=0, cache_bytes=2**22)) as (address, _),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        assert client.post(CHAT, json=BODY).status_code == 200


def test_a_cache_without_room_changes_no_answer(serve, demo, client):
    want = client.post(CHAT, json=BODY).json()["choices"]
    with (
        serve(demo, Limits(cache_bytes=0)) as (address, service),
        httpx.Client(base_url=address, timeout=60) as other,
    ):
        for _ in range(2):
            assert other.post(CHAT, json=BODY).json()["choices"] == want
        assert service.scheduler_thread.scheduler.cache.n_bytes == 0


def test_more_choices_than_slots_are_told(crowded):
    client, _ = crowded
    answer = client.post(CHAT, json=BODY | {"n": SLOTS + 1})
    assert answer.status_code == 400
    assert str(SLOTS) in answer.json()["error"]["message"]


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_a_prompt_waits_for_those_before_it_as_long_as_they_take(serve, demo, monkeypatch, streams):
    """It is no slow reader who reads the answer to another prompt of the same list."""
    slow(monkeypatch, demo, 0.005)
    body = {"prompt": ["a", "b"], "max_tokens": 450, "ignore_eos": True, "seed": 1}
    with (
        serve(demo, idle_seconds=0.5) as (address, service),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        if streams:
            chunks = stream(client, "/v1/completions", **body)
            assert not [chunk for chunk in chunks if "error" in chunk]
            reasons = [c["finish_reason"] for chunk in chunks for c in chunk["choices"]]
            assert [reason for reason in reasons if reason] == ["length"] * 2
        else:
            answer = client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
        until(lambda: is_idle(service))


@pytest.mark.parametrize("streams", [True, False], ids=["streamed", "whole"])
def test_a_list_of_prompts_ends_when_the_server_does(serve, demo, monkeypatch, streams):
    slow(monkeypatch, demo, 0.01)
    body = {"prompt": ["a"] * 60, "max_tokens": 10, "ignore_eos": True}
    with (
        serve(demo, Limits(slots=2, queue=4, cache_bytes=2**24)) as (address, service),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        if streams:
            one = Background(stream, client, "/v1/completions", **body)
        else:
            one = Background(client.post, "/v1/completions", json=body)
        until(lambda: service.scheduler_thread.load.running == 2)
        service.scheduler_thread.is_closing = True
        told = one.result(15)
        if streams:
            assert "error" in told[-1] or len(told[-1]["choices"]) == 1
        else:
            assert told.status_code in (200, 429, 503)
