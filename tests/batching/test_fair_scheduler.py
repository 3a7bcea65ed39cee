"""Requests of several tenants share a model: who waits, for how long, and who is refused."""

import pytest

from wkv.batching import ChoiceDone, Request, RequestFailed, Scheduler, StateCache, TextEvent
from wkv.batching.slot_queue import TURN_STEPS
from wkv.errors import BusyError
from wkv.inference.sampling import Sampling

SAMPLING = Sampling(temperature=1, top_p=1, seed=0)
LONG = 131_072


class Client:
    """A request with its events; it reads each event at once."""

    def __init__(self, scheduler, text, **fields):
        self.events = []
        ids = tuple(text.encode())
        settings = {"sampling": SAMPLING, "max_tokens": LONG} | fields
        self.handle = scheduler.submit(Request(ids=ids, **settings), self.events.append)

    def read(self):
        while self.handle._unread:
            self.handle.acknowledge()

    @property
    def is_done(self):
        done = [event for event in self.events if isinstance(event, ChoiceDone)]
        return len(done) == self.handle.request.choices

    @property
    def error(self):
        return next((e.error for e in self.events if isinstance(e, RequestFailed)), None)

    def ids(self, choice=0):
        return [e.token for e in self.events if isinstance(e, TextEvent) and e.choice == choice]


def steps_until(scheduler, client, others, limit=2000):
    for number in range(limit):
        if client.is_done:
            return number
        scheduler.step()
        for one in (client, *others):
            one.read()
    raise AssertionError("the request does not end")


def new_scheduler(model, **fields):
    return Scheduler(model, StateCache(2**22), **fields)


def finish(scheduler, clients):
    for _ in range(20_000):
        if not scheduler.step():
            return
        for client in clients:
            client.read()
    raise AssertionError("the scheduler does not become idle")


def test_choices_enter_as_slots_become_free(byte_model):
    scheduler = new_scheduler(byte_model, slots=16)
    endless = Client(scheduler, "Once")
    scheduler.step()
    many = Client(scheduler, "x", choices=16, max_tokens=1)
    third = Client(scheduler, "third", max_tokens=5)
    assert steps_until(scheduler, third, [endless, many]) <= 10
    assert steps_until(scheduler, many, [endless, third]) <= 10
    assert len(endless.ids()) > 5
    assert not endless.is_done


def test_a_short_request_waits_for_a_turn_and_not_for_the_end_of_long_ones(byte_model):
    scheduler = new_scheduler(byte_model, slots=2)
    long = [Client(scheduler, text, choices=2) for text in "ab"]
    scheduler.step()
    short = Client(scheduler, "short", max_tokens=5)
    assert steps_until(scheduler, short, long) <= 3 * TURN_STEPS
    for one in long:
        one.handle.cancel()
    finish(scheduler, [])
    assert scheduler.load.is_idle


@pytest.mark.parametrize("text", ["a", "a long prompt of a tenant who asks for a lot " * 40])
def test_another_tenant_is_served_at_once(byte_model, text):
    scheduler = new_scheduler(byte_model, slots=4, queue=40, prefill_chunk=16)
    greedy = [Client(scheduler, f"{number} {text}", tenant="greedy") for number in range(40)]
    for _ in range(3):
        scheduler.step()
    modest = Client(scheduler, "modest", tenant="modest", max_tokens=5)
    assert steps_until(scheduler, modest, greedy) <= 10


def test_a_text_is_the_same_if_its_sequence_had_to_wait_in_between(byte_model):
    def texts(slots):
        scheduler = new_scheduler(byte_model, slots=slots, queue=10)
        scheduler._queued.turn_steps = 3
        clients = [
            Client(scheduler, f"{number} text", tenant=tenant, max_tokens=20, choices=2)
            for number, tenant in enumerate("aab")
        ]
        finish(scheduler, clients)
        return [client.ids(choice) for client in clients for choice in range(2)]

    assert texts(2) == texts(6)


def test_a_prompt_that_had_to_wait_in_between_is_read_once(byte_model):
    scheduler = new_scheduler(byte_model, slots=1, prefill_chunk=16)
    scheduler._queued.turn_steps = 2
    clients = [
        Client(scheduler, f"{number}" * 200, max_tokens=3, cache=False) for number in range(3)
    ]
    read = []
    forward = byte_model.forward
    byte_model.forward = lambda ids, *args, **more: (
        read.append(sum(more.get("lengths") or ())) or forward(ids, *args, **more)
    )
    finish(scheduler, clients)
    del byte_model.forward
    assert sum(read) == 600
    assert all(client.is_done for client in clients)


def test_a_client_that_reads_nothing_holds_no_slot(byte_model):
    scheduler = new_scheduler(byte_model, slots=2)
    deaf = [Client(scheduler, text) for text in "ab"]
    for _ in range(400):
        scheduler.step()
    assert scheduler.load.running == 2
    assert steps_until(scheduler, Client(scheduler, "c", max_tokens=5), []) <= 10
    before = [len(client.ids()) for client in deaf]
    for _ in range(5):
        for client in deaf:
            client.read()
        scheduler.step()
    assert all(len(one.ids()) > count for one, count in zip(deaf, before, strict=True))


def test_the_queue_of_one_tenant_does_not_fill_that_of_another(byte_model):
    scheduler = new_scheduler(byte_model, slots=2, queue=3)
    for _ in range(5):
        Client(scheduler, "x", tenant="greedy/state-1")
    for tenant in ("greedy", "greedy/state-2"):
        with pytest.raises(BusyError, match="try again"):
            Client(scheduler, "x", tenant=tenant)
    Client(scheduler, "x", tenant="modest")


def test_waiting_choices_are_counted(byte_model):
    scheduler = new_scheduler(byte_model, slots=4, queue=4)
    Client(scheduler, "x", choices=4)
    scheduler.step()
    Client(scheduler, "x", choices=4)
    with pytest.raises(BusyError):
        Client(scheduler, "x")


def test_prompts_that_wait_are_limited_by_their_tokens(byte_model):
    scheduler = new_scheduler(byte_model, slots=4, queue_tokens=1000, prefill_chunk=16)
    Client(scheduler, "z", tenant="z")
    scheduler.step()  # from now on, prompts are read in chunks
    Client(scheduler, "a" * 400, tenant="a")
    with pytest.raises(BusyError, match="400 tokens of prompts wait"):
        Client(scheduler, "b" * 101, tenant="a")
    Client(scheduler, "b" * 100, tenant="a")
    Client(scheduler, "c" * 400, tenant="c")
    with pytest.raises(BusyError):
        Client(scheduler, "d" * 400, tenant="d")
    Client(scheduler, "d" * 10, tenant="d")
    scheduler.step()  # what is being read counts too, as far as it was not read
    with pytest.raises(BusyError):
        Client(scheduler, "b" * 200, tenant="a")
    while scheduler.load.prefilling or scheduler.load.queued:
        scheduler.step()
    Client(scheduler, "b" * 500, tenant="a")


def test_a_single_prompt_may_be_longer_than_the_limit(byte_model):
    scheduler = new_scheduler(byte_model, queue_tokens=100)
    Client(scheduler, "a" * 200, max_tokens=1)
    with pytest.raises(BusyError):
        Client(scheduler, "b")
    finish(scheduler, [])
    Client(scheduler, "b")


def test_an_error_ends_waiting_choices_too(byte_model):
    scheduler = new_scheduler(byte_model, slots=2)
    clients = [Client(scheduler, text, choices=2) for text in "ab"]
    for _ in range(3):
        scheduler.step()
    scheduler.fail_all(RuntimeError("out of memory"))
    assert all("out of memory" in str(client.error) for client in clients)
    assert scheduler.load.is_idle
    assert not scheduler.step()


def test_cancelled_choices_that_wait_are_dropped(byte_model):
    scheduler = new_scheduler(byte_model, slots=2)
    scheduler._queued.turn_steps = 2
    clients = [Client(scheduler, text, choices=2) for text in "abc"]
    for _ in range(20):
        scheduler.step()
    for client in clients:
        client.handle.cancel()
    scheduler.step()
    assert scheduler.load.is_idle
    assert not scheduler._decode.waiting


def test_the_events_of_a_step_can_be_passed_on_at_once_before_the_model_runs(byte_model):
    scheduler = new_scheduler(byte_model, slots=8)
    clients = [Client(scheduler, text, max_tokens=5) for text in "abcd"]
    passed, steps = [], 0

    def flush():
        passed.append(sum(len(client.events) for client in clients))
        seen = scheduler._decode.batch.state
        assert seen is None or set(seen.tokens_seen) == {1 + max(0, len(passed) - 1)}

    scheduler.flush = flush
    while scheduler.step():
        steps += 1
    assert len(passed) == steps + 1
    assert passed[0] == 4 * 2  # the prompts were read, and each client has its first token
    assert passed[-1] == sum(len(client.events) for client in clients)
