"""Rows that come and go in a batch: compared with a list of separate states."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wkv.gpu.slot_layers import SlotLayers
from wkv.gpu.slots import SlotPool
from wkv.inference.batch_state import BatchState
from wkv.models.state import LayerState, State

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("remove"), st.sets(st.integers(0, 9), max_size=5)),
        st.tuples(st.just("replace"), st.dictionaries(st.integers(0, 9), st.just(0), max_size=3)),
        st.tuples(st.just("update"), st.none()),
    ),
    max_size=12,
)


def _state(number):
    """Return a state of one row whose tensors all contain its number."""
    full = torch.full((1, 2), float(number))
    layer = LayerState(full, torch.full((1, 2, 3), float(number)), full + 0.5)
    return State((layer, layer.map(torch.clone)), (number,), "7", "x", torch.full((1, 4), number))


def _numbers(state):
    """Return the numbers of the rows, after checking that every tensor contains them."""
    if state is None:
        return []
    numbers = list(state.tokens_seen)
    for row, number in enumerate(numbers):
        for layer in state.layers:
            assert (layer.att_shift[row] == number).all()
            assert (layer.wkv[row] == number).all()
            assert (layer.ffn_shift[row] == number + 0.5).all()
        assert (state.logits[row] == number).all()
    return numbers


def _in_slots(state, pool):
    """Return a state whose rows lie in slots of the GPU engine."""
    return replace(state, layers=SlotLayers(pool, pool.adopt(state.layers)))


@pytest.mark.parametrize("in_slots", [False, True])
@given(steps=STEPS)
def test_rows_are_those_of_separate_states(in_slots, steps):
    batch, expected, made = BatchState(), [], []
    pool = SlotPool(_state(0).layers, lambda: 2**20)
    copied = partial(_in_slots, pool=pool) if in_slots else State.clone
    for kind, value in steps:
        if kind == "append":
            made += (new := [copied(_state(len(made) + i)) for i in range(value)])
            batch.append(new)
            expected += [one.tokens_seen[0] for one in new]
        elif kind == "remove":
            rows = [row for row in value if row < len(expected)]
            states, order = batch.remove(rows)
            assert [number for one in states for number in _numbers(one)] == [
                expected[row] for row in rows
            ]
            expected = [expected[row] for row in order]
        elif batch.state is not None:
            batch.update(copied(batch.state))
            rows = [row for row in value or () if row < len(expected)]
            if kind == "replace" and rows:
                made.append(copied(_state(len(made))))
                batch.replace(dict.fromkeys(rows, 0), made[-1])
                expected = [
                    made[-1].tokens_seen[0] if row in rows else number
                    for row, number in enumerate(expected)
                ]
        assert _numbers(batch.state) == expected
    for number, state in enumerate(made):  # what was given is never changed
        assert _numbers(state) == [number]
