"""Continuous batching: the result of a request does not depend on other requests."""

import random
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.gpu_models import on_gpu_engine
from wkv.batching import (
    ChoiceDone,
    PrefillDone,
    Request,
    RequestFailed,
    Scheduler,
    StateCache,
    StateFolder,
    TextEvent,
)
from wkv.batching.radix_tree import RadixTree
from wkv.errors import BusyError, InputError
from wkv.gpu.slot_layers import SlotLayers
from wkv.inference.sampling import Sampling
from wkv.models.state import State

FREE = Sampling(temperature=1, top_p=1, presence_penalty=0.1, frequency_penalty=0.1, seed=0)


@pytest.fixture(scope="module", params=["torch", "cuda"])
def small(request, tmp_path_factory):
    """Give a random RWKV-7 whose ids are bytes, in float64, on two engines."""
    path = tmp_path_factory.mktemp("small") / "bytes.pth"
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256), path)
    model = wkv.load(path, "cpu fp32", engine="torch")
    model.network.double()
    return model if request.param == "torch" else on_gpu_engine(model, slots=40)


class Received:
    """The events of a request."""

    def __init__(self):
        self.events = []

    @property
    def cached(self):
        return next(event.cached for event in self.events if isinstance(event, PrefillDone))

    def ids(self, choice=0):
        return [e.token for e in self.events if isinstance(e, TextEvent) and e.choice == choice]

    @property
    def ended(self):
        return [event for event in self.events if isinstance(event, ChoiceDone)]

    @property
    def error(self):
        return next(
            (event.error for event in self.events if isinstance(event, RequestFailed)), None
        )


def submit(scheduler, text, **fields):
    received = Received()
    settings = {"sampling": FREE, "max_tokens": 12} | fields
    ids = tuple(text.encode()) if isinstance(text, str) else tuple(text)
    received.handle = scheduler.submit(Request(ids=ids, **settings), received.events.append)
    return received


def finish(scheduler):
    for _ in range(10_000):
        if not scheduler.step():
            return
    raise AssertionError("the scheduler does not become idle")


def new_scheduler(model, **fields):
    return Scheduler(model, StateCache(2**24), **fields)


def alone(model, text, **fields):
    scheduler = new_scheduler(model)
    received = submit(scheduler, text, **fields)
    finish(scheduler)
    return received


def test_a_request_gives_the_same_text_as_generate(small):
    sampling = Sampling(temperature=1, top_p=0.9, seed=3)
    received = alone(small, "Once upon", sampling=sampling, max_tokens=30)
    done = wkv.generate(small, "Once upon", sampling=sampling, max_tokens=30)
    assert received.ids() == done.token_ids
    assert "".join(e.text for e in received.events if isinstance(e, TextEvent)) == done.text
    assert [e.finish_reason for e in received.ended] == [done.finish_reason]


@given(st.data())
def test_other_requests_do_not_change_a_result(small, data):
    texts = data.draw(
        st.lists(st.text("abc ", min_size=1, max_size=200), min_size=1, max_size=8), "texts"
    )
    pauses = data.draw(st.lists(st.integers(0, 4), min_size=len(texts), max_size=len(texts)))
    scheduler = new_scheduler(
        small, slots=data.draw(st.integers(1, 4)), prefill_chunk=data.draw(st.integers(1, 40))
    )
    together = []
    for number, (text, pause) in enumerate(zip(texts, pauses, strict=True)):
        together.append(submit(scheduler, text, sampling=Sampling(top_p=1, seed=number)))
        for _ in range(pause):
            scheduler.step()
    finish(scheduler)
    for number, (text, received) in enumerate(zip(texts, together, strict=True)):
        assert received.ids() == alone(small, text, sampling=Sampling(top_p=1, seed=number)).ids()


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_every_generation_is_served(checkpoint_paths, generation, engine):
    model = wkv.load(checkpoint_paths[generation], "cpu fp32", tokenizer="bytes", engine=engine)
    sampling = Sampling(top_p=0.5, seed=4, banned=tuple(range(256, 300)))
    scheduler = new_scheduler(model, prefill_chunk=8)
    texts = ["a", "some text", "some text that is longer than the others are"]
    together = [submit(scheduler, text, sampling=sampling) for text in texts]
    finish(scheduler)
    for text, received in zip(texts, together, strict=True):
        assert received.error is None
        assert received.ids() == alone(model, text, sampling=sampling).ids()
        history = [*text.encode(), *received.ids(), *b" more"]
        again = submit(scheduler, history, sampling=sampling)
        finish(scheduler)
        assert again.cached == len(text) + len(received.ids()) - 1
        assert again.ids() == alone(model, history, sampling=sampling).ids()


@given(st.data())
def test_a_cached_prefix_does_not_change_the_result(small, data):
    text = data.draw(st.text("ab", min_size=2, max_size=300))
    cut = data.draw(st.integers(1, len(text)))
    scheduler = new_scheduler(small)
    submit(scheduler, text[:cut], max_tokens=0)
    finish(scheduler)
    received = submit(scheduler, text)
    finish(scheduler)
    assert received.cached == cut
    assert received.ids() == alone(small, text).ids()
    want = small.forward(list(text.encode()) + received.ids()[:-1])[1]
    [got] = received.ended
    for ours, theirs in zip(got.state.layers, want.layers, strict=True):
        torch.testing.assert_close(ours.wkv, theirs.wkv, rtol=0, atol=1e-9)


def test_the_state_after_a_reply_is_cached(small):
    scheduler = new_scheduler(small)
    first = submit(scheduler, "Tell me")
    finish(scheduler)
    history = [*b"Tell me", *first.ids(), *b" more"]
    second = submit(scheduler, history)
    finish(scheduler)
    assert second.cached == len(b"Tell me") + len(first.ids()) - 1
    assert second.ids() == alone(small, history).ids()


def test_a_common_prefix_is_cached_when_it_occurs_again(small):
    scheduler = new_scheduler(small)
    shared = "s" * 100
    for number, cached in enumerate((0, 0, 100)):
        received = submit(scheduler, f"{shared}{number}")
        finish(scheduler)
        assert received.cached == cached


def test_simultaneous_requests_read_a_common_prefix_once(small):
    scheduler = new_scheduler(small, prefill_chunk=16)
    read = []
    forward = small.forward

    def counted(ids, *args, **kwargs):
        lengths = kwargs.get("lengths")
        read.append(sum(lengths) if lengths else 0)
        return forward(ids, *args, **kwargs)

    small.forward = counted
    try:
        together = [submit(scheduler, "p" * 400 + str(number)) for number in range(4)]
        finish(scheduler)
    finally:
        del small.forward
    assert sum(read) == 400 + 4
    assert [received.cached for received in together] == [0, 400, 400, 400]


@pytest.mark.parametrize("when", range(0, 40, 3))
def test_a_request_that_waits_for_a_prefix_survives_the_cancellation_of_its_reader(small, when):
    scheduler = new_scheduler(small, prefill_chunk=16)
    busy = submit(scheduler, "zz", max_tokens=100)  # keeps the chunks small
    first = submit(scheduler, "p" * 400 + "a")
    second = submit(scheduler, "p" * 400 + "b")
    for _ in range(when):
        scheduler.step()
    first.handle.cancel()
    finish(scheduler)
    assert second.ids() == alone(small, "p" * 400 + "b").ids()
    assert busy.ids() == alone(small, "zz", max_tokens=100).ids()


def test_choices_do_not_depend_on_each_other(small):
    three = alone(small, "Once", choices=3)
    assert three.ids(0) == alone(small, "Once").ids()
    assert three.ids(1) == alone(small, "Once", choices=2).ids(1)
    assert len({tuple(three.ids(choice)) for choice in range(3)}) == 3


def test_a_long_prompt_does_not_delay_other_requests(small):
    scheduler = new_scheduler(small, prefill_chunk=16)
    talking = submit(scheduler, "hi", max_tokens=1000)
    scheduler.step()
    submit(scheduler, "x" * 5000)
    before = len(talking.ids())
    for _ in range(50):
        scheduler.step()
    assert len(talking.ids()) == before + 50


def test_requests_are_refused_if_the_queue_is_full_or_they_are_invalid(small):
    scheduler = new_scheduler(small, slots=1, queue=2)
    for text in "abc":
        submit(scheduler, text)
    with pytest.raises(BusyError):
        submit(scheduler, "d")
    scheduler.step()
    with pytest.raises(BusyError):
        submit(scheduler, "d")
    finish(scheduler)
    submit(new_scheduler(small, slots=1, queue=0), "a")
    with pytest.raises(InputError):
        submit(scheduler, "")
    with pytest.raises(InputError):
        submit(new_scheduler(small, slots=2), "a", choices=3)


def test_cancelling_frees_the_slot_and_does_not_affect_others(small):
    scheduler = new_scheduler(small, slots=2)
    gone, stays = submit(scheduler, "gone", max_tokens=1000), submit(scheduler, "stays")
    scheduler.step()
    gone.handle.cancel()
    scheduler.step()
    received = len(gone.events)
    assert scheduler.load.running == 1
    finish(scheduler)
    assert len(gone.events) == received
    assert stays.ids() == alone(small, "stays").ids()


def test_a_sequence_is_paused_while_its_client_is_behind(small):
    scheduler = new_scheduler(small)
    slow, fast = (
        submit(scheduler, "slow", max_tokens=300),
        submit(scheduler, "fast", max_tokens=400),
    )
    slow.handle.acknowledge()
    for received in iter(lambda: scheduler.step() and not fast.ended, False):
        assert received
        while fast.handle.is_behind:
            fast.handle.acknowledge()
    assert not slow.ended
    assert len(slow.events) < 300
    while not slow.ended:
        slow.handle.acknowledge()
        scheduler.step()
    assert slow.ids() == alone_read(small, "slow", 300)


def test_a_sequence_whose_client_reads_nothing_times_out(small):
    scheduler = new_scheduler(small, reader_timeout=0.05)
    slow = submit(scheduler, "slow", max_tokens=1000)
    finish(scheduler)
    assert scheduler.load.running == 1
    time.sleep(0.06)
    finish(scheduler)
    assert scheduler.load.running == 0
    assert "read" in str(slow.error)


def alone_read(model, text, count):
    scheduler = new_scheduler(model)
    received = submit(scheduler, text, max_tokens=count)
    while scheduler.step():
        while received.handle.is_behind:
            received.handle.acknowledge()
    return received.ids()


def test_nan_logits_fail_one_request_only(small):
    scheduler = new_scheduler(small)
    bad, good = submit(scheduler, "bad", max_tokens=50), submit(scheduler, "good", max_tokens=50)
    scheduler.step()
    running = scheduler._decode.batch.sequences
    place = next(i for i, choice in enumerate(running) if choice.handle is bad.handle)
    state = scheduler._decode.batch.state
    if isinstance(state.layers, SlotLayers):
        pool = state.layers.pool
        pool.slots.wkv[pool.numbers(state.layers.slots)[place]] = torch.nan
    else:
        state.layers[0].wkv[place] = torch.nan
    finish(scheduler)
    assert "finite" in str(bad.error)
    assert good.error is None
    assert good.ids() == alone(small, "good", max_tokens=50).ids()
    states = [cached.state for cached in scheduler.cache._nodes.values()]
    assert all(bool(torch.isfinite(layer.wkv).all()) for state in states for layer in state.layers)


def test_an_error_of_the_model_ends_the_running_requests_only(small):
    scheduler = new_scheduler(small)
    broken = submit(scheduler, "x")
    small.forward = _broken
    try:
        finish(scheduler)
    finally:
        del small.forward
    assert "out of memory" in str(broken.error)
    later = submit(scheduler, "y")
    finish(scheduler)
    assert later.ids() == alone(small, "y").ids()


def _broken(*_, **__):
    raise RuntimeError("out of memory")


def test_tasks_run_between_steps(small):
    scheduler = new_scheduler(small)
    future, failing = scheduler.run_task(_working()), scheduler.run_task(_failing())
    received = submit(scheduler, "a")
    finish(scheduler)
    assert future.result(0) == 3
    assert received.ended
    with pytest.raises(ValueError, match="no"):
        failing.result(0)


def _working():
    yield
    yield
    return 3


def _failing():
    yield
    raise ValueError("no")


def test_states_in_a_folder_outlive_the_process(byte_model, tmp_path):
    small = byte_model
    folder = StateFolder(tmp_path, small, 2**24)
    scheduler = Scheduler(small, StateCache(2**24, folder))
    first = submit(scheduler, "Tell me")
    finish(scheduler)
    folder.flush()
    said = (*b"Tell me", *first.ids())
    # This cache stands for another process, which knows the message boundaries.
    other = Scheduler(small, StateCache(2**24, StateFolder(tmp_path, small, 2**24)))
    again = submit(other, [*said, *b" more"], message_boundaries=(len(said),))
    finish(other)
    assert again.cached == len(said) - 1
    other.cache.folder.flush()
    for file in folder.folder.iterdir():  # a damaged file counts as a missing one
        file.write_bytes(file.read_bytes()[:100])
    third = Scheduler(small, StateCache(2**24, StateFolder(tmp_path, small, 2**24)))
    again = submit(third, [*said, *b" more"], message_boundaries=(len(said),))
    finish(third)
    assert again.cached == 0


def test_a_folder_respects_its_limit(small, tmp_path):
    folder = StateFolder(tmp_path, small, 500_000)
    state = small.forward(list(b"some"))[1]
    for number in range(20):
        folder.save("", [number], state)
        folder.flush()
    files = list(folder.folder.iterdir())
    assert files
    assert sum(file.stat().st_size for file in files) <= 500_000


class CacheMachine(RuleBasedStateMachine):
    """A state machine that compares the cache with a dictionary of all states."""

    LIMIT = 3000

    def __init__(self):
        super().__init__()
        self.time = 0
        self.cache = StateCache(self.LIMIT, clock=self.clock)
        self.truth = {}

    def clock(self):
        self.time += 1
        return self.time

    def state(self, size, value):
        from wkv.models.state import LayerState

        tensor = torch.full((1, size), float(value))
        layers = (LayerState(tensor, tensor, tensor),)
        return State(layers, (1,), "7", "x", torch.zeros(1, 4))

    ids = st.lists(st.integers(0, 2), min_size=1, max_size=12)
    tenants = st.sampled_from(["a", "b"])

    @rule(tenant=tenants, ids=ids, size=st.integers(1, 40))
    def put(self, tenant, ids, size):
        value = len(self.truth) + 1000 * len(ids)
        if self.cache.put(tenant, ids, self.state(size, value)):
            self.truth[tenant, tuple(ids)] = float(value)

    @rule(tenant=tenants, ids=ids)
    def find(self, tenant, ids):
        found = self.cache.find(tenant, ids)
        if found.state is not None:
            value = found.state.layers[0].wkv[0, 0].item()
            assert self.truth[tenant, tuple(ids[: found.position])] == value
        known = {key for owner, key in self.truth if owner == tenant}
        assert found.common <= max((_common_length(key, ids) for key in known), default=0)

    @rule()
    def clear(self):
        self.cache.clear()

    @invariant()
    def the_budget_holds(self):
        assert 0 <= self.cache.n_bytes <= self.LIMIT
        nodes = self.cache._nodes
        assert self.cache.n_bytes == sum(one.n_bytes for one in nodes.values())
        trees = self.cache._trees
        assert sum(len(list(tree.nodes())) for tree in trees.values()) == len(nodes)


def _common_length(first, second):
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


TestCache = CacheMachine.TestCase


def test_a_radix_tree_agrees_with_a_dictionary():
    randomness = random.Random(0)
    tree, truth = RadixTree(), {}
    for _ in range(10_000):
        ids = tuple(randomness.choices((0, 1, 2), k=randomness.randint(1, 10)))
        if randomness.random() < 0.5:
            truth[ids] = tree.put(ids, randomness.random())
        elif truth and randomness.random() < 0.6:
            removed = randomness.choice(list(truth))
            tree.remove(truth.pop(removed))
        match = tree.match(ids)
        prefixes = [key for key in truth if ids[: len(key)] == key]
        want = max(prefixes, key=len, default=None)
        assert (match.node.depth if match.node else None) == (len(want) if want else None)
        assert match.common == max((_common_length(key, ids) for key in truth), default=0)
    for node in truth.values():
        tree.remove(node)
    assert not tree.root.children
