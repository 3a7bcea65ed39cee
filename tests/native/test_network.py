"""Models on the native engine: against PyTorch's, and what must hold of any model and any input."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.checkpoint.weights import Weights
from wkv.inference.describe import describe
from wkv.inference.load import strategy_for
from wkv.native import library
from wkv.native.compiled_plan import phases
from wkv.native.network import LAYERS, NativeNetwork
from wkv.native.plan import Buffer, Plan, Step
from wkv.native.steps import NONE, X_BUFFER, Gated, StatePart, StepList

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)

GENERATIONS = tuple(LAYERS)
FORMATS = ("fp32", "fp16", "bf16", "int8", "int4")
IDS = torch.randint(0, 300, (60,), generator=torch.Generator().manual_seed(3)).tolist()
ids_lists = st.lists(st.integers(0, 299), min_size=1, max_size=40)
every_generation = pytest.mark.parametrize("generation", GENERATIONS)
every_format = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture(scope="module")
def native(checkpoint_paths):
    """Give a function from generation and format to a model, loaded once."""
    made = {}

    def model(generation, format="fp32"):
        key = generation, format
        if key not in made:
            made[key] = wkv.load(checkpoint_paths[generation], f"cpu {format}", engine="native")
        return made[key]

    return model


def parts(state):
    return [t for layer in state.layers for t in (layer.att_shift, layer.wkv, layer.ffn_shift)]


def close(left, right, tolerance):
    return all(
        (a - b).abs().max() <= tolerance * b.abs().clamp(max=1e6).max().clamp(min=1)
        for a, b in zip(parts(left), parts(right), strict=True)
    )


def network(path, kernels, threads=1, text="cpu fp32"):
    """A network with the kernels of a kind."""
    description = describe(path)
    shapes = description.shapes
    weights = Weights(description.checkpoint, shapes, strategy_for(description, text))
    return NativeNetwork(description.config, weights, kernels=kernels, threads=threads)


@every_generation
@pytest.mark.parametrize("kernels", library.kernels() if library.missing_reason() is None else ())
def test_every_kind_of_kernels_gives_pytorchs_logits(checkpoint_paths, generation, kernels):
    made = network(checkpoint_paths[generation], kernels)
    expected = wkv.load(checkpoint_paths[generation], "cpu fp32", engine="torch")
    X, layers = made(torch.tensor([IDS, IDS[::-1]]), made.new_layers(2))
    logits = made.logits(X)
    truth, state = expected.forward(torch.tensor([IDS, IDS[::-1]]), all_logits=True)
    assert (logits - truth).abs().max() <= 3e-5
    assert all(
        (a.wkv - b.wkv).abs().max() < 1e-3 for a, b in zip(layers, state.layers, strict=True)
    )


@every_generation
@pytest.mark.parametrize("format", ["fp16", "bf16"])
def test_16_bits_lose_what_rounding_the_weights_loses(tmp_path, generation, format):
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[format]
    tensors = random_checkpoint(generation)
    rounded = {n: t.to(dtype).float() if t.dim() > 1 else t for n, t in tensors.items()}
    for name, kind in (("exact", tensors), ("rounded", rounded)):
        save_pth(kind, tmp_path / f"{name}.pth")
    exact, lossy = (
        wkv.load(tmp_path / f"{name}.pth", "cpu fp32", engine="torch").forward(IDS)[0]
        for name in ("exact", "rounded")
    )
    found = wkv.load(tmp_path / "exact.pth", f"cpu {format}", engine="native").forward(IDS)[0]
    loss = (lossy - exact).square().mean().sqrt()
    assert (found - exact).square().mean().sqrt() <= 2 * loss


@every_generation
@pytest.mark.parametrize("format", ["int8", "int4"])
def test_packed_weights_are_those_that_pytorch_rounds(native, checkpoint_paths, generation, format):
    """Without the engine the same weights are used, with activations that are not rounded."""
    rounded = wkv.load(checkpoint_paths[generation], f"cpu {format}", engine="torch")
    exact = wkv.load(checkpoint_paths[generation], "cpu fp32", engine="torch").forward(IDS)[0]
    truth, found = rounded.forward(IDS)[0], native(generation, format).forward(IDS)[0]
    loss = (truth - exact).square().mean().sqrt()
    assert (found - truth).square().mean().sqrt() <= {"int8": 2, "int4": 0.5}[format] * loss


@every_generation
@every_format
@settings(max_examples=6)
@given(ids=ids_lists, cut=st.floats(0, 1))
def test_any_split_gives_the_same(native, generation, format, ids, cut):
    model = native(generation, format)
    whole, state = model.forward(ids, all_logits=True)
    at = int(cut * len(ids))
    carried, logits = None, []
    for part in filter(None, (ids[:at], ids[at:])):
        after, carried = model.forward(part, carried, all_logits=True)
        logits.append(after)
    assert torch.equal(torch.cat(logits), whole)
    assert close(carried, state, 0)


@every_generation
@every_format
@settings(max_examples=4)
@given(rows=st.lists(ids_lists, min_size=1, max_size=5), pad=st.integers(0, 299))
def test_a_padded_row_equals_that_row_alone(native, generation, format, rows, pad):
    model = native(generation, format)
    lengths = [len(row) for row in rows]
    width = max(lengths) + 3
    batch = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    logits, state = model.forward(batch, lengths=lengths)
    for index, row in enumerate(rows):
        alone, state_alone = model.forward(row)
        assert torch.equal(logits[index], alone)
        assert close(state.rows([index]), state_alone, 0)


@every_generation
def test_the_state_passed_in_is_never_changed(native, generation):
    model = native(generation)
    _, state = model.forward(IDS[:9])
    before = state.clone()
    for again in (state, before):  # as the engine left it, and as separate tensors
        logits, after = model.forward(IDS[9:], again)
        assert all(torch.equal(a, b) for a, b in zip(parts(state), parts(before), strict=True))
    assert torch.equal(model.forward(IDS[9:], state)[0], logits)
    assert close(model.forward(IDS[9:], state)[1], after, 0)


@every_generation
def test_rows_that_end_in_an_earlier_piece_keep_their_state(native, generation, monkeypatch):
    model = native(generation)
    batch = torch.tensor([IDS, IDS[:7] + [0] * 53])
    for lengths in ([60, 7], [30, 7]):  # of the second no token is left for the last pieces
        monkeypatch.setattr("wkv.inference.model.TOKENS_AT_ONCE", 512)
        whole, state = model.forward(batch, lengths=lengths)
        monkeypatch.setattr("wkv.inference.model.TOKENS_AT_ONCE", 40)
        pieces, in_pieces = model.forward(batch, lengths=lengths)
        assert torch.equal(whole, pieces)
        assert close(in_pieces, state, 0)


@every_generation
def test_the_number_of_threads_changes_no_bit(checkpoint_paths, generation):
    found = []
    for threads in (1, 2, 5):
        made = network(checkpoint_paths[generation], library.kernels()[0], threads)
        for ids in (IDS, IDS[:1]):
            X, _ = made(torch.tensor([ids]), made.new_layers(1))
            found.append(made.logits(X))
    assert all(torch.equal(a, b) for a, b in zip(found, found[2:], strict=False))


@every_format
def test_skipping_zeros_loses_nothing(native, format):
    model = native("7", format)
    _, state = model.forward(IDS)
    skipped, _ = model.forward([5], state)
    model.skip_zeros = False
    try:
        read, _ = model.forward([5], state)
    finally:
        model.skip_zeros = True
    assert model.skip_zeros
    assert (skipped - read).abs().max() <= 1e-5


def test_threads_may_call_a_model_at_once(native):
    model = native("7")
    expected = model.forward(IDS)[0]
    found = []

    def work():
        for _ in range(5):
            found.append(model.forward(IDS)[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all(torch.equal(logits, expected) for logits in found)


def test_what_is_not_a_number_stays_in_its_row(native):
    model = native("7", "int8")
    _, state = model.forward(torch.tensor([IDS[:5], IDS[:5]]))
    poisoned = state.clone()
    poisoned.layers[1].wkv[0, 0, 0, 0] = float("nan")
    logits, _ = model.forward(torch.tensor([[3], [3]]), poisoned)
    clean, _ = model.forward(torch.tensor([[3], [3]]), state)
    assert not torch.isfinite(logits[0]).all()
    assert torch.equal(logits[1], clean[1])


@pytest.mark.parametrize("size", [(64, 16), (96, 48), (200, 40), (72, 12), (64, 4)])
@pytest.mark.parametrize("generation", ["5.2", "6", "7"])
def test_odd_sizes(tmp_path, generation, size):
    width, head = size
    tensors = random_checkpoint(generation, n_embd=width, head_size=head, vocab_size=61, n_layer=2)
    save_pth(tensors, tmp_path / "odd.pth")
    ids = [i % 61 for i in IDS]
    truth, _ = wkv.load(tmp_path / "odd.pth", "cpu fp32", engine="torch").forward(ids)
    found, _ = wkv.load(tmp_path / "odd.pth", "cpu fp32", engine="native").forward(ids)
    assert (found - truth).abs().max() <= 1e-4


def test_heads_that_are_not_in_the_engine_run_on_pytorch(tmp_path):
    tensors = random_checkpoint("6", n_embd=64, head_size=2, n_layer=2)
    save_pth(tensors, tmp_path / "odd.pth")
    assert wkv.load(tmp_path / "odd.pth").engine == "torch"
    with pytest.raises(wkv.StrategyError, match="heads of 2 channels"):
        wkv.load(tmp_path / "odd.pth", engine="native")


def test_7a_and_i8_run_on_pytorch(checkpoint_paths):
    assert wkv.load(checkpoint_paths["7a"], "cpu int8").engine == "torch"
    assert wkv.load(checkpoint_paths["7"], "cpu fp32i8").engine == "torch"
    assert wkv.load(checkpoint_paths["7"], "cpu fp32").engine == "native"
    with pytest.raises(wkv.StrategyError, match="native engine cannot run this: RWKV-7a"):
        wkv.load(checkpoint_paths["7a"], engine="native")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"engine": "gpu"}, "auto, native, cuda, torch"),
        ({"threads": 0}, "1 to"),
        ({"threads": 1.5}, "1 to"),
    ],
)
def test_wrong_engines_and_threads_are_told(arguments, match):
    with pytest.raises(wkv.InputError, match=match):
        wkv.load(**arguments)


@every_generation
def test_without_the_library_everything_runs_on_pytorch(
    monkeypatch, checkpoint_paths, native, generation
):
    expected, _ = native(generation, "int8").forward(IDS)
    monkeypatch.setattr(library, "missing_reason", lambda: "it was not built")
    for text in ("auto", "cpu fp32", "cpu bf16", "cpu fp16", "cpu int8", "cpu int4"):
        model = wkv.load(checkpoint_paths[generation], text)
        assert model.engine == "torch"
        found, _ = model.forward(IDS)
        assert (found - expected).abs().max() < (1.5 if text == "cpu int4" else 0.3)


def test_steps_run_in_the_earliest_phase_that_their_dependencies_allow():
    a, b, c, d = (Buffer(1, index) for index in range(4))

    def step(reads, writes):
        return Step(Gated(), [*reads, *writes], writes)

    steps = [step([a], [b]), step([a], [c]), step([b, c], [d]), step([d], [b]), step([b], [a])]
    assert phases(steps) == [0, 0, 1, 2, 3]


def test_a_step_names_every_field_of_its_struct():
    plan = Plan(8, 16)
    with pytest.raises(wkv.WKVError, match="fields of a gated step: gait, gate"):
        plan.add(Gated, [plan.X], gait=plan.X, x=plan.X, y=plan.X)
    plan.add(Gated, [plan.X], gate=None, x=plan.X, y=plan.X)
    (step,) = plan.steps[StepList.body]
    assert [step.struct.gate, step.struct.x, step.struct.y] == [NONE, X_BUFFER, X_BUFFER]


def test_a_token_shift_with_too_many_mixes_is_an_error():
    norm = torch.ones(8), torch.zeros(8)
    with pytest.raises(wkv.WKVError, match="9 mixes, at most 8"):
        Plan(8, 16).shift(norm, 0, StatePart.att_shift, [torch.ones(8)] * 9)


def test_states_that_do_not_fit_are_told(native):
    model = native("7")
    _, state = model.forward(IDS[:3])
    layers = tuple(state.layers)
    wrong = [
        replace(state, layers=layers[:1]),
        replace(state, layers=tuple(layer.map(lambda part: part[..., :1]) for layer in layers)),
        replace(state, layers=tuple(layer.map(lambda part: part.to("meta")) for layer in layers)),
    ]
    for broken in wrong:
        with pytest.raises(wkv.StateError, match="the state"):
            model.forward([1], broken)
    with pytest.raises(wkv.StateError, match="expected"):
        model.forward([[1]] * 3, replace(state, tokens_seen=(3,) * 3))


def test_low_rank_maps_that_are_too_wide_run_on_pytorch(tmp_path):
    tensors = random_checkpoint("7", n_layer=1, n_embd=64)
    tensors["blocks.0.att.g1"] = torch.zeros(64, 70000)
    tensors["blocks.0.att.g2"] = torch.zeros(70000, 64)
    save_pth(tensors, tmp_path / "wide.pth")
    model = wkv.load(tmp_path / "wide.pth")
    assert model.engine == "torch"
    assert torch.isfinite(model.forward([1, 2])[0]).all()


def test_what_is_too_large_is_no_number(tmp_path):
    tensors = random_checkpoint("7", n_layer=2, n_embd=64)
    tensors["blocks.0.ffn.key.weight"] *= 1e18
    save_pth(tensors, tmp_path / "huge.pth")
    assert not torch.isfinite(wkv.load(tmp_path / "huge.pth", "cpu fp32").forward(IDS)[0]).any()


def test_threads_leave_pytorchs_number_as_it_was(native):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model = native("7")
        numbers = []

        def work():
            for _ in range(20):
                model.forward([1])
                numbers.append(wkv.load().threads)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
            work()
        for thread in threads:
            thread.join()
        assert torch.get_num_threads() == 3
        assert set(numbers) == {3}
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_can_run_a_model_and_end(checkpoint_paths):
    code = f"""
import os, sys, time, wkv
model = wkv.load({str(checkpoint_paths["7"])!r}, threads=2)
logits, _ = model.forward([1, 2, 3])
time.sleep(0.1)
child = os.fork()
again, _ = model.forward([1, 2, 3])
assert (again == logits).all()
del model
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)
