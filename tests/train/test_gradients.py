"""Gradients of every trained tensor of every generation, against differences of the oracles."""

import numpy as np
import pytest
import torch
from torch import nn

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.oracles import rwkv4, rwkv5, rwkv6, rwkv7, rwkv7a
from wkv.train.data import Row, stacked
from wkv.train.schedule import Schedule
from wkv.train.tuning.methods import plain_products, prepare
from wkv.train.tuning.options import TuningOptions
from wkv.train.tuning.session import compute_blocks_again
from wkv.train.tuning.task import TuningTask

ORACLES = {"4": rwkv4, "5.0": rwkv5, "5.1": rwkv5, "5.2": rwkv5, "6": rwkv6, "7": rwkv7,
           "7a": rwkv7a}  # fmt: skip
SIZES = {"n_layer": 2, "n_embd": 64, "head_size": 32, "vocab_size": 40}
STEP = 1e-5
ROWS = [Row([3, 9, 0, 17, 30, 5], [0, 0, 1, 0.5, 0, 2], "a"),
        Row([11, 2, 2, 7], [0, 1, 0, 1], "b")]  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    for generation in GENERATIONS:
        save_pth(random_checkpoint(generation, **SIZES), folder / f"{generation}.pth")
    return folder


def tuned_model(bases, generation, method, dtype=torch.float64, **options):
    model = wkv.load(bases / f"{generation}.pth", "cpu fp32", engine="torch")
    plain_products(model.network)
    model.network.to(dtype)
    choices = {"rank": 4, "alpha": 6.0} | options
    tuned = prepare(model, TuningOptions(method=method, **choices), {})
    draw = torch.Generator().manual_seed(1)
    for one in tuned.trained:
        value = one.parameter.data.to(dtype)
        if method != "full":
            value = value + 0.3 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
        one.parameter.data = value.to(dtype)
        one.parameter.grad = torch.zeros_like(one.parameter)
    model.network.to(dtype)
    return tuned


def task_of(tuned, **options):
    choices = {"carry": None, "micro_rows": 2, "uses_autocast": False} | options
    return TuningTask(tuned, None, Schedule(), {}, **choices)


def gradients(tuned, **options):
    rows = stacked(ROWS)
    _, losses, weights = task_of(tuned, **options).backward(rows, rows.weights.sum())
    total = float((losses.double() * weights).sum() / rows.weights.sum())
    return total, {one.name: one.parameter.grad.clone() for one in tuned.trained}


def merged(tensors, values, norms):
    """Give the oracle tensors for values of the trained tensors, with the formulas written out."""
    tensors = dict(tensors)
    for name in list(tensors):
        module = name.removesuffix(".weight")
        if name in values:
            tensors[name] = values[name]
        elif f"{module}.B" in values:
            W = tensors[name] + 6.0 / 4 * values[f"{module}.B"] @ values[f"{module}.A"]
            if f"{module}.magnitude" in values:
                scale = values[f"{module}.magnitude"] / norms.setdefault(
                    module, np.sqrt((W**2).sum(1))
                )
                W = W * scale[:, None]
            tensors[name] = W
        elif f"{module}.D" in values:
            D, W = values[f"{module}.D"], tensors[name]
            tensors[name] = W + np.stack([D[i % len(D)] for i in range(W.shape[1])], axis=1)
    return tensors


def oracle_loss(generation, tensors, start):
    oracle, total, count = ORACLES[generation], 0.0, 0.0
    for row in ROWS:
        state = None
        if start is not None:
            state = oracle.empty_state(oracle.Parameters(tensors))
            state = [layer | {"wkv": S} for layer, S in zip(state, start, strict=True)]
        logits, _ = oracle.forward(tensors, row.ids[:-1], state)
        for t, (target, weight) in enumerate(zip(row.ids[1:], row.weights[1:], strict=True)):
            shifted = logits[t] - logits[t].max()
            total += weight * (np.log(np.exp(shifted).sum()) - shifted[target])
            count += weight
    return total / count


CASES = [(generation, method) for generation in GENERATIONS
         for method in ("state", "lora", "dora", "miss", "full")
         if (generation, method) != ("4", "state")]  # fmt: skip


@pytest.mark.parametrize(("generation", "method"), CASES)
def test_gradients_equal_differences_of_the_oracle(bases, generation, method):
    tuned = tuned_model(bases, generation, method)
    loss, found = gradients(tuned)
    tensors = {
        name: tensor.double().numpy()
        for name, tensor in random_checkpoint(generation, **SIZES).items()
    }
    values = {one.name: one.parameter.detach().numpy() for one in tuned.trained}
    norms = {}
    # DoRA holds the norms of the present tensors constant
    present = merged(tensors, values, norms)

    def at(name, value):
        changed = values | {name: value}
        part = name if name in tensors else f"{name.rpartition('.')[0]}.weight"
        own = {part: tensors[part]} if part in tensors else {}
        whole = present | merged(own, changed, norms)
        return oracle_loss(generation, whole, changed.get("start"))

    first = next(iter(values))
    assert loss == pytest.approx(at(first, values[first]), abs=1e-9)
    draw = np.random.default_rng(0)
    names = list(values)
    if method == "full":  # as many directions as fit into a second
        names = [name for name in names if name.startswith(("blocks.1.", "head", "emb"))]
        assert set(found) == {*tensors} - {f"blocks.0.att.v{part}" for part in "012"}
    for name in names:
        direction = draw.standard_normal(values[name].shape)
        direction /= np.sqrt((direction**2).sum())
        ahead, behind = (at(name, values[name] + sign * STEP * direction) for sign in (1, -1))
        expected = (ahead - behind) / (2 * STEP)
        actual = float((found[name].numpy() * direction).sum())
        assert actual == pytest.approx(expected, rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("generation", GENERATIONS)
def test_no_method_changes_the_base_at_the_first_step(bases, generation):
    ids = torch.tensor([ROWS[0].ids])
    for dtype in ("cpu fp32", "cpu bf16"):
        model = wkv.load(bases / f"{generation}.pth", dtype, engine="torch")
        plain_products(model.network)
        expected = model.network.logits(model.network(ids, model.network.new_layers(1))[0])
        for method in ("lora", "dora", "miss", "state"):
            if (generation, method) == ("4", "state"):
                continue
            model = wkv.load(bases / f"{generation}.pth", dtype, engine="torch")
            plain_products(model.network)
            tuned = prepare(model, TuningOptions(method=method, rank=4), {})
            found = model.network.logits(model.network(ids, tuned.layers(1))[0])
            assert torch.equal(found, expected), (method, dtype)


@pytest.mark.parametrize("method", ["state", "lora", "full"])
@pytest.mark.parametrize("generation", ["4", "6", "7"])
def test_rows_at_a_time_and_blocks_again_give_the_same_gradient(
    bases, generation, method, monkeypatch
):
    if (generation, method) == ("4", "state"):
        return
    whole, expected = gradients(tuned_model(bases, generation, method))
    tuned = tuned_model(bases, generation, method)
    compute_blocks_again(tuned.network)
    monkeypatch.setattr("wkv.train.loss.LOGITS_AT_ONCE", 3 * 40)  # three targets at a time
    again, found = gradients(tuned, micro_rows=1)
    assert again == pytest.approx(whole, abs=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12)


def test_the_native_recurrence_gives_the_gradient_of_the_state(bases):
    from wkv.train.recurrence import recurrence

    _, expected = gradients(tuned_model(bases, "7", "state"))
    tuned = tuned_model(bases, "7", "state", torch.float32)
    for block in tuned.network.blocks:
        block.att.wkv = recurrence(1)[0]
    _, found = gradients(tuned)
    error = (found["start"].double() - expected["start"]).norm() / expected["start"].norm()
    assert error < 1e-5
    turned = expected["start"].mT
    assert abs(nn.functional.cosine_similarity(found["start"].double().flatten(),
                                               turned.flatten(), 0)) < 0.5  # fmt: skip


def test_carried_state_keeps_the_loss_and_cuts_the_gradient(bases):
    whole, expected = gradients(tuned_model(bases, "7", "lora"))
    carried, found = gradients(tuned_model(bases, "7", "lora"), carry=3)
    assert carried == pytest.approx(whole, abs=1e-9)
    flat = [torch.cat([one.flatten() for one in all.values()]) for all in (expected, found)]
    cosine = nn.functional.cosine_similarity(*flat, 0)
    assert 0.5 < cosine < 0.99999
    rows = stacked([Row([3, 9, 0, 17, 30, 5], [0, 0, 0, 0, 0, 1], "a")])  # two pieces learn nothing
    tuned = tuned_model(bases, "7", "lora")
    task_of(tuned, carry=2).backward(rows, rows.weights.sum())
    assert all(one.parameter.grad.isfinite().all() for one in tuned.trained)
