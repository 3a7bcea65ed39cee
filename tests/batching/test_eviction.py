"""Eviction of cached states: fair between owners, and quick for any number of states."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wkv.batching import StateCache
from wkv.batching.eviction import Eviction, Weight
from wkv.models.state import LayerState, State


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Counting(Eviction):
    """An eviction that counts the states it compares."""

    compared = 0

    def next(self):
        owned = self._owners
        type(self).compared += len(owned) + max(len(one.groups) for one in owned.values())
        return super().next()


def state(size=10):
    tensor = torch.zeros(1, size)
    return State((LayerState(tensor, tensor, tensor),), (1,), "7", "x", torch.zeros(1, 4))


@given(st.lists(st.tuples(st.integers(1, 3000), st.floats(0, 1e5)), min_size=1, max_size=60))
def test_the_least_valuable_state_goes_first(states):
    clock = Clock()
    eviction = Eviction(clock)
    for number, (saved, used) in enumerate(sorted(states, key=lambda pair: pair[1])):
        clock.now = used
        eviction.add(number, Weight("", 1, saved))
    clock.now = 2e5
    left = dict(enumerate(sorted(states, key=lambda pair: pair[1])))
    while left:
        chosen = eviction.next()
        values = {n: saved / (1 + clock.now - used) for n, (saved, used) in left.items()}
        assert values[chosen] <= min(values.values()) * 2**0.25 * (1 + 1e-9)
        eviction.remove(chosen)
        del left[chosen]


@pytest.mark.parametrize("count", [1_000, 30_000])
def test_the_number_of_states_does_not_matter(count):
    clock, draw = Clock(), random.Random(0)
    eviction = Counting(clock)
    for number in range(count):
        clock.now += draw.random()
        eviction.add(number, Weight("", 1, draw.randint(1, 2**17)))
    Counting.compared = 0
    for _ in range(100):
        eviction.remove(eviction.next())
    assert Counting.compared <= 100 * 70


def test_a_state_that_is_used_stays_longer():
    clock = Clock()
    eviction = Eviction(clock)
    for number in range(3):
        eviction.add(number, Weight("", 1, 100))
        clock.now += 1
    eviction.touch(0)
    order = []
    for _ in range(3):
        order.append(eviction.next())
        eviction.remove(order[-1])
    assert order == [1, 2, 0]


def put_many(cache, tenant, count):
    for number in range(count):
        cache.put(tenant, [7, number], state())


def test_one_key_does_not_push_out_the_states_of_another():
    size = state().n_bytes + 16
    cache = StateCache(10 * size)
    for tenant in ("quiet", "quiet/state-1"):
        cache.put(tenant, [1], state())
    put_many(cache, "loud", 1000)
    put_many(cache, "loud/state-2", 1000)
    assert cache.find("quiet", [1]).position == 1
    assert cache.find("quiet/state-1", [1]).position == 1
    assert len(cache) == 10


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=200))
def test_an_owner_keeps_its_share(puts):
    size = state().n_bytes + 16
    cache = StateCache(12 * size)
    for number, tenant in enumerate(puts):
        cache.put(tenant, [number], state())
    total = len(puts)
    for tenant in "abc":
        kept = sum(one.tenant == tenant for one in cache._nodes.values())
        assert kept >= min(4, puts.count(tenant)) or total <= 12


def test_the_states_of_a_key_that_left_make_room():
    clock = Clock()
    size = state().n_bytes + 16
    cache = StateCache(10 * size, clock=clock)
    put_many(cache, "left", 5)
    clock.now = 24 * 3600.0
    put_many(cache, "busy", 10)
    assert {one.tenant for one in cache._nodes.values()} == {"busy"}
