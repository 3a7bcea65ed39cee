"""The GPU engine on the CPU: slots, graphs, states that move, memory that does not suffice."""

import gc
import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.gpu_models import on_gpu_engine, trace
from wkv.batching import SchedulerLoad
from wkv.bench.engine_info import why
from wkv.cli import options
from wkv.errors import BusyError, StrategyError
from wkv.gpu.graphs import DecodeGraphs, graph_size
from wkv.gpu.slots import SlotPool
from wkv.gpu.unsupported import lack_of_memory, unsupported_reason
from wkv.inference import load
from wkv.inference.describe import describe
from wkv.models.state import LayerState
from wkv.models.strategy import choose_strategy
from wkv.models.strategy.language import read_strategy
from wkv.models.strategy.placement import place
from wkv.serve.metrics import CacheSize, Metrics

PARTS = ("att_shift", "wkv", "ffn_shift")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    for generation in GENERATIONS:
        tensors = random_checkpoint(generation, n_layer=2, n_embd=64)
        save_pth(tensors, folder / f"{generation}.pth")
    return {generation: folder / f"{generation}.pth" for generation in GENERATIONS}


@pytest.fixture
def plain(paths):
    return wkv.load(paths["7"], "cpu fp32", engine="torch")


def values(state):
    return [getattr(layer, part) for layer in state.layers for part in PARTS]


# ---- slots


def filled(number, rows=1):
    full = torch.full((rows, 2), float(number))
    return LayerState(full, torch.full((rows, 3, 2), number + 0.5), full + 0.25)


def numbers_of(pool, slots):
    """Return the number of each state, after checking that all of its parts contain it."""
    layer = pool.layer(1, slots)
    numbers = layer.att_shift[:, 0].tolist()
    for row, number in enumerate(numbers):
        assert (layer.wkv[row] == number + 0.5).all()
        assert (layer.ffn_shift[row] == number + 0.25).all()
    return numbers


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "share", "drop", "read"]), st.integers(0, 9)), max_size=30
    ),
    limit=st.integers(4, 12),
)
def test_slots_keep_every_state_that_is_referred_to(steps, limit):
    size = 4 * 2 * (2 + 6 + 2)
    pool = SlotPool([filled(-1)] * 2, lambda: limit * size, first_count=4)
    held, made = [], 0
    for kind, choice in steps:
        index = choice % len(held) if held else 0
        if kind == "add":
            made += 1
            held += [(made, slot) for slot in pool.adopt([filled(made)] * 2)]
        elif held and kind == "share":
            held.append(held[index])
        elif held and kind == "drop":
            held.pop(index)
        elif held and kind == "read":
            (number,) = pool.numbers([held[index][1]])
            assert pool.slots.wkv[number, 0, 0, 0] == held[index][0] + 0.5
        assert numbers_of(pool, [slot for _, slot in held]) == [number for number, _ in held]
        saved = len({id(slot) for _, slot in held if slot.saved is not None})
        assert pool.usage.in_use + saved == len({id(slot) for _, slot in held})
        assert pool.usage.saved_bytes == saved * pool.slots.slot_bytes
        assert pool.slots.count <= max(limit, 4)
    assert numbers_of(pool, [pool.empty]) == [-1]
    held.clear()
    assert pool.usage.in_use == pool.usage.saved_bytes == 0


def test_states_that_were_not_used_for_longest_move_first():
    pool = SlotPool([filled(0)] * 2, lambda: 0, first_count=5)
    slots = [pool.adopt([filled(number)] * 2)[0] for number in range(3)]
    pool.numbers([slots[0]])
    new = pool.adopt([filled(3, rows=2)] * 2)
    assert [slot.saved is not None for slot in slots] == [False, True, True]
    with pytest.raises(BusyError, match=r"4 states are needed.*has memory for 3, and 0 .* in use"):
        pool.take(4)
    assert numbers_of(pool, [*slots, *new]) == [0, 1, 2, 3, 3]


def test_a_pool_that_cannot_get_memory_moves_states(monkeypatch):
    pool = SlotPool([filled(0)] * 2, lambda: 2**30, first_count=4)
    slots = pool.adopt([filled(1, rows=2)] * 2)
    monkeypatch.setattr("wkv.gpu.slots._enlarged", _out_of_memory)
    slots += pool.take(2)
    assert numbers_of(pool, slots[:2]) == [1, 1]
    assert pool.slots.count == 4


def _out_of_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")


# ---- states


def test_states_share_slots_and_are_copied_when_looked_at(plain, tmp_path):
    model = on_gpu_engine(plain, slots=30)
    _, state = model.forward([[1, 2], [3, 4], [5, 6]])
    expected = plain.forward([[1, 2], [3, 4], [5, 6]])[1]
    pool = model.network.pool
    used = pool.usage.in_use
    rows = state.rows([2, 0, 2])
    stacked = wkv.State.stack([rows, state])
    assert pool.usage.in_use == used == 3
    both = wkv.State.stack([expected.rows([2, 0, 2]), expected])
    assert all(map(torch.equal, values(stacked), values(both)))
    assert stacked.n_bytes == both.n_bytes
    assert state.devices == expected.devices
    assert state.to([torch.device("cpu")] * 3) is state
    copy = state.clone()
    copy.layers[0].wkv.zero_()
    state.layers[0].wkv.zero_()  # what is looked at is a copy, too
    assert all(map(torch.equal, values(state), values(expected)))
    state.save(tmp_path / "s")
    for reader in (plain, model):
        loaded = wkv.State.load(tmp_path / "s", reader)
        assert all(map(torch.equal, values(loaded), values(expected)))
        assert torch.equal(model.forward([[7]] * 3, loaded)[0], model.forward([[7]] * 3, state)[0])
    with pytest.raises(wkv.StateError, match=r"cannot be moved to cpu.*read the text again"):
        model.forward([1], expected.rows([0]).to([torch.device("meta")] * 3))
    # States of other engines join them, and become tensors.
    mixed = wkv.State.stack([expected, state])
    assert isinstance(mixed.layers, tuple)
    mixed = wkv.State.stack([state, on_gpu_engine(plain).forward([[1, 2]])[1]])
    assert mixed.layers[1].wkv.shape[0] == 4
    del rows, stacked, state, loaded, mixed, reader
    gc.collect()
    assert pool.usage.in_use == 0


def test_memory_is_constant_while_rows_come_and_go(plain):
    model = on_gpu_engine(plain, slots=9)
    state = None
    for step in range(60):
        rows = 1 + step % 3
        if state is not None and state.batch_size != rows:
            state = state.rows([row % state.batch_size for row in range(rows)])
        _, state = model.forward([[step]] * rows, state)
    pool = model.network.pool
    assert pool.usage.in_use == state.batch_size
    assert pool.usage.saved_bytes == 0
    assert model.network.graphs.sizes == [1, 2, 4]


def test_a_tuned_initial_state_is_used(tmp_path):
    tensors = random_checkpoint("7", n_layer=2, n_embd=64)
    for layer in range(2):
        tensors[f"blocks.{layer}.att.time_state"] = torch.randn(2, 32, 32)
    save_pth(tensors, tmp_path / "tuned.pth")
    plain = wkv.load(tmp_path / "tuned.pth", "cpu fp32", engine="torch")
    initial = [layer.wkv[0] for layer in plain.new_state().layers]
    model = on_gpu_engine(plain)
    model._initial_wkv = initial
    assert torch.equal(model.forward([1, 2, 3])[0], plain.forward([1, 2, 3])[0])


# ---- graphs


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_recorded_step_equals_the_step(paths, generation):
    plain = wkv.load(paths[generation], "cpu fp32", engine="torch")
    model, recorded = (on_gpu_engine(plain, slots=14, capture=c) for c in (lambda run: run, trace))
    states = [None, None]
    for step, rows in enumerate((3, 3, 4, 2, 3)):
        ids = torch.arange(rows)[:, None] * 7 + step
        logits = []
        for number, engine in enumerate((model, recorded)):
            if states[number] is not None:
                kept = states[number].batch_size
                states[number] = states[number].rows([row % kept for row in range(rows)])
            result, states[number] = engine.forward(ids, states[number])
            logits.append(result)
        assert torch.equal(*logits)
        assert bool(logits[0].isfinite().all())
    assert all(map(torch.equal, values(states[0]), values(states[1])))


def test_a_decode_step_never_waits_for_the_device(paths):
    # A capture would fail there. On the meta device, reading a value fails too.
    for generation in GENERATIONS:
        plain = wkv.load(paths[generation], "cpu fp32", engine="torch")
        network = on_gpu_engine(plain).network
        meta = torch.device("meta")
        network._step.network.to(meta)
        pool = SlotPool(
            [layer.to(meta) for layer in network._step.network.new_layers(1)], lambda: 0
        )
        graphs = DecodeGraphs(network._step, lambda run: run, pytest.fail)
        logits = graphs(torch.tensor([1, 2, 3]), [0, 0, 0], [2, 3, 4], pool.slots)
        assert logits.shape == (3, 300)


def test_graphs_are_captured_once_for_each_size_and_again_after_growth(plain):
    captured = []

    def capture(run):
        captured.append(run)
        return run

    model = on_gpu_engine(plain, slots=8, grows=True, capture=capture)
    for rows in (1, 3, 4, 1, 3):
        model.forward([[1]] * rows)
    assert len(captured) == 2
    kept = [model.forward([[1]] * 4)[1] for _ in range(3)]
    assert model.network.pool.slots.count == 16
    assert len(captured) == 3
    assert model.network.graphs.sizes == [4]
    assert all(torch.equal(kept[0].logits, one.logits) for one in kept)


def test_if_capture_fails_steps_run_without_it_after_one_notice(plain, caplog):
    def capture(run):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    model = on_gpu_engine(plain, capture=capture)
    for rows in (1, 2, 3):
        logits, _ = model.forward([[5]] * rows)
        assert torch.allclose(logits, plain.forward([[5]] * rows)[0], atol=1e-6)
    assert len(caplog.records) == 1
    assert "could not be captured as a CUDA graph (operation not" in caplog.text
    assert "graphs" not in model.network.kernels


@pytest.mark.parametrize(
    ("rows", "size"),
    [(1, 1), (2, 2), (3, 4), (5, 8), (33, 64), (64, 64), (65, 128), (320, 320), (321, 384)],
)
def test_sizes_of_graphs(rows, size):
    assert graph_size(rows) == size


# ---- memory and threads


class FullStep:
    """A step that fails a number of times for lack of memory."""

    kernels = "none"

    def __init__(self, step, failures):
        self._step, self.failures = step, failures

    def __call__(self, ids, rows):
        return self._step(ids, rows) if self._works() else None

    def hidden(self, ids, rows):
        return self._step.hidden(ids, rows) if self._works() else None

    def logits(self, X):
        return self._step.logits(X)

    def _works(self):
        self.failures -= 1
        return self.failures < 0 or _out_of_memory()


@pytest.mark.parametrize("ids", [[[1, 2, 3]], [[1]]])
def test_lack_of_memory_is_tried_again_and_then_refused(plain, ids):
    step = FullStep(on_gpu_engine(plain).network._step, 1)
    model = on_gpu_engine(plain, step=step)
    assert torch.equal(model.forward(ids)[0], plain.forward(ids)[0])
    step.failures = 2
    with pytest.raises(BusyError, match=r"memory of cpu.*\(CUDA out of memory.*fewer rows"):
        model.forward(ids)
    assert model.network.pool.usage.in_use == 0
    assert torch.equal(model.forward(ids)[0], plain.forward(ids)[0])


def test_threads_share_a_model(plain):
    model = on_gpu_engine(plain, slots=8)
    prompts = [[number, number + 1] for number in range(6)]
    results = {}

    def run(number):
        _, state = model.forward(prompts[number])
        for token in range(15):
            logits, state = model.forward([token], state)
        results[number] = logits

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, prompt in enumerate(prompts):
        expected, _ = plain.forward([*prompt, *range(15)])
        assert torch.allclose(results[number], expected, atol=1e-4)


# ---- the choice of the engine


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cuda fp16", None),
        ("cuda:1 bf16", None),
        ("cpu fp32", "one CUDA device"),
        ("cuda fp16 *1 -> cpu fp32", "one CUDA device"),
        ("cuda:0 fp16 *1 -> cuda:1 fp16", "one CUDA device"),
        ("cuda fp16i8", None),
        ("cuda fp16 *1+", "streamed"),
    ],
)
def test_strategies_that_the_engine_runs(text, reason):
    found = unsupported_reason(place(read_strategy(text), 3))
    assert found is None if reason is None else reason in found


def test_the_engine_is_chosen_if_the_embedding_fits(paths, monkeypatch):
    description = describe(paths["7"])
    strategy = choose_strategy("cuda fp16", 2, {torch.float16}, 10, check=False)
    monkeypatch.setattr("wkv.gpu.unsupported.free_bytes", lambda _: 2**40)
    assert load._engine_for(description, strategy, "auto", None) == "cuda"
    assert load._engine_for(description, strategy, "torch", None) == "torch"
    monkeypatch.setattr("wkv.gpu.unsupported.free_bytes", lambda _: 2**20)
    assert load._engine_for(description, strategy, "auto", None) == "torch"
    assert "0.0 GiB are free" in lack_of_memory(strategy, 2**21)
    with pytest.raises(StrategyError, match="the cuda engine cannot run this: with its embedding"):
        load._engine_for(description, strategy, "cuda", None)
    with pytest.raises(StrategyError, match="one CUDA device"):
        wkv.load(paths["7"], "cpu fp32", engine="cuda")


def test_bench_and_metrics_describe_the_slots(plain):
    model = on_gpu_engine(plain, slots=10)
    assert why(model).startswith("all layers are on one GPU; 8 slots for states take 0 MiB")
    load = SchedulerLoad(0, 0, 0, 0, 16)
    state = model.forward([[1], [2]])[1]
    text = Metrics().text(load, CacheSize(0, 0), model.slot_usage)
    assert "wkv_gpu_slots 8.0" in text
    assert f"wkv_gpu_slots_used {state.batch_size}.0" in text


def test_commands_report_the_engine_of_a_gpu(plain, capsys):
    options._report_choices(on_gpu_engine(plain))
    assert capsys.readouterr().err == "engine: cuda (cpu, PyTorch modules in CUDA graphs)\n"
    placed = place(read_strategy("cuda fp32 *1+"), 2)
    torch_model = SimpleNamespace(
        strategy=placed, engine="torch", device=placed.device, path=plain.path, slot_usage=None
    )
    options._report_choices(torch_model)
    told = "the cuda engine cannot run this: it does not support streamed layers;"
    assert capsys.readouterr().err == f"{told} using PyTorch, which is slower\n"
