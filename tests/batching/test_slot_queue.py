"""The rules by which slots are shared, in a simulation without a model."""

import random
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from wkv.batching import Request, RequestHandle
from wkv.batching.slot_queue import SlotQueue
from wkv.inference.sampling import Sampling

TURN = 5
LONG = 10**9


@dataclass(eq=False)
class Job:
    """Work that needs a number of steps in a slot."""

    handle: RequestHandle
    steps: int
    begun: int | None = None
    done: int = 0
    unread_tokens: int = 0
    n_choices: int = 1

    @property
    def owner(self):
        return self.handle.request.owner


@dataclass
class Simulation:
    """A scheduler whose work only counts steps."""

    slots: int
    running: list[Job] = field(default_factory=list)
    step_number: int = 0
    order: list[Job] = field(default_factory=list)

    def __post_init__(self):
        self.queue = SlotQueue(self.slots, TURN)

    def submit(self, tenant="", steps=LONG, choices=1):
        request = Request(ids=(1,), sampling=Sampling(), max_tokens=1, tenant=tenant)
        handle = RequestHandle(request, lambda _: None)
        jobs = [Job(handle, steps) for _ in range(choices)]
        for job in jobs:
            self.queue.push(job)
        return jobs

    def step(self):
        change = self.queue.step(self.running)
        for job in change.started:
            if job.begun is None:
                job.begun = self.step_number
                self.order.append(job)
        self.running = [job for job in self.running if job not in change.stopped] + change.started
        assert len(self.running) == len(set(map(id, self.running))) <= self.slots
        waiting = list(self.queue)
        assert not {id(job) for job in waiting} & {id(job) for job in self.running}
        assert len(self.running) == self.slots or not waiting  # no slot is idle
        for job in self.running:
            job.done += 1
        self.running = [job for job in self.running if job.done < job.steps]
        self.step_number += 1

    def steps(self, count):
        for _ in range(count):
            self.step()


def bound(jobs):
    """Return the steps in which the owners' turns come round for all jobs."""
    counts = Counter(job.owner for job in jobs)
    return (TURN + 1) * (len(counts) * max(counts.values()) + 1)


works = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.one_of(st.integers(1, 8), st.just(LONG)),
        st.integers(1, 6),
        st.integers(0, 6),
    ),
    min_size=1,
    max_size=12,
)


@given(works, st.integers(1, 6))
def test_all_work_begins_after_a_bounded_number_of_steps(submissions, slots):
    simulation = Simulation(slots)
    jobs = []
    for tenant, steps, choices, pause in submissions:
        jobs += simulation.submit(tenant, steps, min(choices, slots))
        simulation.steps(pause)
    simulation.steps(bound(jobs))
    assert all(job.begun is not None for job in jobs)


@given(works, st.integers(1, 6))
def test_all_work_advances_forever(submissions, slots):
    simulation = Simulation(slots)
    jobs = []
    for tenant, _, choices, pause in submissions:
        jobs += simulation.submit(tenant, LONG, min(choices, slots))
        simulation.steps(pause)
    for _ in range(3):
        before = [job.done for job in jobs]
        simulation.steps(bound(jobs))
        assert all(job.done > count for job, count in zip(jobs, before, strict=True))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 16))
def test_slots_are_shared_equally_between_owners(counts, slots):
    simulation = Simulation(slots)
    for number, count in enumerate(counts):  # the first one has taken all slots when others come
        for _ in range(count):
            simulation.submit(f"owner{number}")
        simulation.step()
    simulation.steps(2)
    held = Counter(job.owner for job in simulation.running)
    for one, count in enumerate(counts):
        for other in range(len(counts)):
            fewer, more = held[f"owner{one}"], held[f"owner{other}"]
            assert more - fewer <= 1 or fewer == count


@given(st.integers(2, 6), st.integers(1, 4), st.randoms())
def test_in_the_long_run_all_owners_receive_the_same(owners, slots, draw):
    simulation = Simulation(slots)
    jobs = {owner: [] for owner in range(owners)}
    for owner in jobs:
        for _ in range(draw.randint(slots, 20)):
            jobs[owner] += simulation.submit(str(owner))
    simulation.steps(400)
    received = [sum(job.done for job in jobs[owner]) for owner in jobs]
    assert max(received) - min(received) <= 2 * TURN * slots + slots


def test_a_newcomer_starts_at_once_whatever_others_have_submitted():
    simulation = Simulation(16)
    for _ in range(1000):
        simulation.submit("greedy", choices=4)
    simulation.steps(3)
    [job] = simulation.submit("modest", 2)
    simulation.step()
    assert job.begun == 3
    simulation.step()
    assert Counter(job.owner for job in simulation.running) == {"greedy": 15}


def test_the_states_of_a_key_share_its_slots():
    simulation = Simulation(8)
    for number in range(40):
        simulation.submit(f"greedy/state-{number}")
    for _ in range(8):
        simulation.submit("modest")
    simulation.steps(2)
    assert Counter(job.owner for job in simulation.running) == {"greedy": 4, "modest": 4}


@given(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=30))
def test_requests_of_an_owner_start_in_the_order_in_which_they_came(slots, lengths):
    simulation = Simulation(slots)
    jobs = [simulation.submit("a", steps)[0] for steps in lengths]
    for _ in range(sum(lengths) + 1):
        simulation.submit("b", 1)
        simulation.step()
    simulation.steps(sum(lengths) + 10 * TURN)
    assert [job for job in simulation.order if job.owner == "a"] == jobs


def test_choices_use_the_free_slots_and_leave_them_to_those_who_come_later():
    simulation = Simulation(16)
    endless = simulation.submit(choices=1)
    simulation.step()
    many = simulation.submit(choices=16)
    simulation.step()
    assert sum(job.begun is not None for job in many) == 15
    [later] = simulation.submit(steps=1)
    simulation.steps(TURN)
    assert later.begun is not None
    simulation.steps(TURN)
    assert all(job.begun is not None for job in many)
    assert endless[0].done > 0


def test_a_stream_of_small_requests_does_not_starve_a_large_one():
    simulation = Simulation(4)
    simulation.submit(steps=3, choices=4)
    simulation.step()
    many = simulation.submit(steps=3, choices=4)
    for _ in range(60):
        simulation.submit(steps=1)
        simulation.submit(steps=3)
        simulation.step()
    assert all(job.done == 3 for job in many)


def test_nothing_changes_hands_while_nobody_waits():
    simulation = Simulation(3)
    jobs = simulation.submit("a") + simulation.submit("b", choices=2)
    simulation.steps(10 * TURN)
    assert [job.done for job in jobs] == [10 * TURN] * 3


def test_an_owner_below_its_share_keeps_its_slot():
    simulation = Simulation(4)
    [small] = simulation.submit("small")
    for _ in range(20):
        simulation.submit("large")
    simulation.steps(50 * TURN)
    assert small.done == 50 * TURN


def test_cancelled_work_does_not_wait():
    simulation = Simulation(1)
    draw = random.Random(0)
    jobs = [simulation.submit(draw.choice("ab"), 1)[0] for _ in range(30)]
    for job in jobs[::2]:
        job.handle.cancel()
    simulation.queue.remove_cancelled()
    assert len(simulation.queue) == 15
    simulation.steps(15)
    assert [job.begun is not None for job in jobs] == [False, True] * 15
