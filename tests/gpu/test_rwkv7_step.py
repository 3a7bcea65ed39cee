"""The Triton step of RWKV-7 in Triton's interpreter: equal to the float64 oracle."""

import numpy as np
import pytest
import torch

from tests.gpu.packed import new_slots, pack, random_network, rms, rounded
from tests.oracles import rwkv7 as oracle
from wkv.gpu.rows import EMPTY_SLOT, SPARE_SLOT

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LIMITS = {"fp32": 2e-6, "fp16": 5e-3, "bf16": 3e-2}
"""Largest root mean square error of logits, whose standard deviation is about 1."""

FP32_LIMIT = 1e-4
"""Largest difference of a row alone and in a batch of more than four rows."""


@pytest.fixture(scope="module", params=DTYPES)
def network(request, triton_interpreter, tmp_path_factory):
    """Give a step, its tensors for the oracle, its configuration, and the limit of errors."""
    from wkv.gpu.rwkv7_step import Rwkv7Step

    folder = tmp_path_factory.mktemp("rwkv7")
    modules, tensors = random_network(folder, f"cpu {request.param}")
    before = {name: tensor.clone() for name, tensor in modules.state_dict().items()}
    step = Rwkv7Step(modules)
    assert all(torch.equal(tensor, before[name]) for name, tensor in modules.state_dict().items())
    exact = rounded(tensors, DTYPES[request.param])
    return step, exact, modules.config, LIMITS[request.param]


def random_ids(count, seed=0):
    return torch.randint(0, 90, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def parts(slots, numbers):
    return [part[numbers].clone() for part in (slots.att_shift, slots.wkv, slots.ffn_shift)]


def after(exact, tokens, states=None):
    """Return the oracle's logits after one list of ids per sequence, and its states."""
    states = states or [None] * len(tokens)
    results = [oracle.forward(exact, ids, state) for ids, state in zip(tokens, states, strict=True)]
    return np.stack([logits[-1] for logits, _ in results]), [state for _, state in results]


def test_ragged_prompts_and_decode_equal_the_oracle(network):
    step, exact, config, limit = network
    slots = new_slots(config, 9)
    prompts = [random_ids(9), random_ids(1, 1), random_ids(5, 2)]
    logits = step(*pack(prompts, slots, [EMPTY_SLOT] * 3, [2, 3, 4]))
    expected, states = after(exact, prompts)
    assert logits.dtype == torch.float32
    assert rms(logits, expected) <= limit

    before = parts(slots, [0, 2, 3, 4])
    padded = step(*pack([[7], [8], [9], [0]], slots, [2, 3, 4, EMPTY_SLOT], [5, 6, 7, SPARE_SLOT]))
    expected, states = after(exact, [[7], [8], [9]], states)
    assert rms(padded[:3], expected) <= limit
    for kept, old in zip(parts(slots, [0, 2, 3, 4]), before, strict=True):
        assert torch.equal(kept, old)  # bit for bit
    for layer, state in enumerate(states[1]):
        assert rms(slots.wkv[6, layer], state["wkv"]) <= limit
        assert rms(slots.att_shift[6, layer], state["att_shift"]) <= limit
        assert rms(slots.ffn_shift[6, layer], state["ffn_shift"]) <= limit

    # Decode rows may read and write the same slot.
    in_place = step(*pack([[7], [8]], slots, [5, 6], [5, 6]))
    assert rms(in_place, after(exact, [[7], [8]], states[:2])[0]) <= limit


def test_a_row_alone_equals_the_row_in_a_batch(network):
    step, exact, config, limit = network
    slots = new_slots(config, 10)
    tokens = random_ids(7, 1)
    expected, _ = after(exact, [[token] for token in tokens])
    for rows in range(1, 8):
        own = list(range(2, 2 + rows))
        batch = [[token] for token in tokens[:rows]]
        logits = step(*pack(batch, slots, [EMPTY_SLOT] * rows, own))
        state = parts(slots, own)
        assert rms(logits, expected[:rows]) <= limit
        if rows == 1:
            alone, alone_state = logits[0], state
            step.skip_zeros = False
            assert torch.equal(step(*pack(batch, slots, [EMPTY_SLOT], own))[0], alone)
            step.skip_zeros = True
        elif rows <= 4:
            assert torch.equal(alone, logits[0])
            assert all(torch.equal(a[0], b[0]) for a, b in zip(alone_state, state, strict=True))
        else:
            assert (alone - logits[0]).abs().max() <= (FP32_LIMIT if limit < 1e-5 else 8 * limit)


def test_the_residual_stream_of_all_rows_gives_the_logits_of_all_rows(network):
    step, exact, config, limit = network
    slots = new_slots(config, 4)
    prompts = [random_ids(3), random_ids(2, 1)]
    X = step.hidden(*pack(prompts, slots, [0, 0], [2, 3]))
    expected = np.concatenate([oracle.forward(exact, prompt)[0] for prompt in prompts])
    assert rms(step.logits(X), expected) <= limit  # the product of the library
    assert rms(step.logits(X[None, 1:3]), expected[None, 1:3]) <= limit  # of a kernel
