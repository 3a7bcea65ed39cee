"""Readers who do not read: memory stays flat, others go on, and some day they are given up."""

import time

import httpx
import psutil

from tests.serve.wire import ENDLESS, HELLO, Caller, is_idle, narrow, stream, text_of, until

LOUD = ENDLESS | {"stream": True, "logprobs": True, "top_logprobs": 20}
"""Some 3 kB for each token, so that buffers are full soon."""

DRAWN = {"messages": HELLO, "seed": 7, "temperature": 1.5, "top_p": 1, "max_tokens": 60}


def passes(service):
    """Tokens written so far, by all sequences that go on."""
    rows = service.scheduler_thread.scheduler._decode
    return sum(len(choice.token_ids) for choice in (*rows.batch.sequences, *rows.paused))


def stalls(service, quiet=0.5):
    """Wait until nothing is written any more."""
    while True:
        before = passes(service)
        time.sleep(quiet)
        if passes(service) == before:
            return before


def test_what_waits_for_a_slow_reader_is_bounded_and_others_go_on(demo):
    with narrow(demo) as (address, service), httpx.Client(base_url=address, timeout=60) as client:
        alone = text_of(stream(client, **DRAWN))
        slow = [Caller(address, buffer=2**14) for _ in range(4)]
        for caller in slow:
            caller.send("/v1/chat/completions", LOUD)
        until(lambda: service.scheduler_thread.load.running == 4)
        written = stalls(service)
        assert 0 < written < 4 * 1000  # not the 100 000 that were asked for
        resident = psutil.Process().memory_info().rss
        for _ in range(5):
            assert text_of(stream(client, **DRAWN)) == alone
        time.sleep(1)
        assert passes(service) == written
        assert psutil.Process().memory_info().rss - resident < 2**24
        [quick, *_] = slow  # who reads again is written on
        until(lambda: quick.socket.recv(2**16) and passes(service) > written + 300)
        for caller in slow:
            caller.socket.close()
        assert until(lambda: is_idle(service)) < 5


def test_a_reader_who_takes_nothing_is_given_up(demo):
    with (
        narrow(demo, idle_seconds=1) as (address, service),
        httpx.Client(base_url=address, timeout=60) as client,
        Caller(address, buffer=2**12) as caller,
    ):
        caller.send("/v1/chat/completions", LOUD)
        until(lambda: service.scheduler_thread.load.running == 1)
        stalls(service, 0.2)
        assert until(lambda: is_idle(service)) < 10
        assert text_of(stream(client, **DRAWN))


def test_a_reader_who_pauses_for_less_loses_nothing(demo):
    body = LOUD | {"max_tokens": 1000, "seed": 1}
    with narrow(demo, idle_seconds=10) as (address, service), Caller(address, 2**14) as caller:
        caller.send("/v1/chat/completions", body)
        until(lambda: service.scheduler_thread.load.running == 1)
        assert stalls(service) < 1000
        data = caller.read_until(b"data: [DONE]\n\n", 2**30)
        assert data.count(b'"finish_reason":"length"') == 1
        assert data.count(b'"top_logprobs"') == 1000


def test_an_answer_of_several_choices_is_set_aside_as_one(demo):
    with narrow(demo) as (address, service), Caller(address, 2**14) as caller:
        caller.send("/v1/chat/completions", LOUD | {"n": 4})
        until(lambda: service.scheduler_thread.load.running == 4)
        stalls(service)
        rows = service.scheduler_thread.scheduler._decode
        assert len(rows.paused) == 4
        assert not rows.batch.sequences
    until(lambda: is_idle(service))


def test_a_slow_reader_of_several_prompts_is_bounded(demo):
    body = {"prompt": ["a", "b", "c"], "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    with narrow(demo) as (address, service), Caller(address, 2**14) as caller:
        caller.send("/v1/completions", body | {"logprobs": 20})
        until(lambda: service.scheduler_thread.load.running == 3)
        assert stalls(service) < 3 * 1000
    until(lambda: is_idle(service))


def test_who_sends_slowly_holds_up_nobody(serve, demo):
    with (
        serve(demo) as (address, service),
        httpx.Client(base_url=address, timeout=60) as client,
        Caller(address) as caller,
    ):
        caller.socket.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
        with Caller(address) as other:
            other.send("/v1/chat/completions", b'{"mess', **{"Content-Length": "1000"})
            assert text_of(stream(client, **DRAWN))
            until(lambda: is_idle(service))
