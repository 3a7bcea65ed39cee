"""The code for GPUs, tested on the meta device or with replaced functions of CUDA."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import wkv
from tests.checkpoints import GENERATIONS
from tests.unit.test_launches import Launches, network
from wkv.batching.state_cache import StateCache
from wkv.bench.memory_bandwidth import gpu_seconds
from wkv.inference.describe import describe
from wkv.inference.load import strategy_for
from wkv.inference.model import Model
from wkv.inference.torch_weights import gpu_bytes
from wkv.models import parts
from wkv.models.int8 import Int8Linear
from wkv.models.parts import Linear
from wkv.models.strategy import Placement, Segment
from wkv.models.strategy import products as products_module
from wkv.models.strategy.placement import place
from wkv.models.strategy.products import WeightCopies, matmul

META = torch.device("meta")


def model_on_meta(source):
    """Build a model without values that a state of `source` belongs to."""
    built = network(source.config.generation, source.config.n_layer, torch.float32)
    return Model(
        built,
        strategy=place([Segment("meta", torch.float32)], source.config.n_layer),
        path=source.path,
        identity=source.identity,
        layout="pth",
        make_tokenizer=lambda: None,
    )


# ---- states


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_state_is_moved_to_the_device_of_the_model(models, generation):
    _, state = models[generation].forward([1, 2, 3])
    model = model_on_meta(models[generation])
    logits, new = model.forward([4], state)
    assert logits.device.type == "meta"
    assert {layer.wkv.device.type for layer in new.layers} == {"meta"}
    assert state.device.type == "cpu"
    X, _ = model.hidden([4, 5], state)
    assert X.device.type == "meta"


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_state_that_cannot_be_moved_is_a_state_error(checkpoint_paths, engine):
    model = wkv.load(checkpoint_paths["7"], "cpu fp32", engine=engine)
    _, elsewhere = model_on_meta(model).forward([1, 2])
    with pytest.raises(wkv.StateError, match="is on meta and cannot be moved to cpu"):
        model.forward([1], elsewhere)


def test_a_state_that_is_in_place_is_not_copied(models):
    _, state = models["6"].forward([1])
    assert state.to([torch.device("cpu")] * 4) is state


def test_rows_of_a_state_copy_the_row_numbers_once(models):
    _, state = model_on_meta(models["6"]).forward([[1, 2], [3, 4]])
    with Launches() as counted:
        state.rows([1, 0])
    assert counted.names.count("aten._to_copy.default") == 1


def test_cached_states_wait_in_main_memory(models, monkeypatch):
    moves = []

    def to(state, devices):
        moves.append([device.type for device in devices])
        return state

    monkeypatch.setattr(wkv.State, "to", to)
    _, state = model_on_meta(models["6"]).forward([1, 2])
    state = replace(state, logits=torch.zeros(1, 300))
    cache = StateCache(limit=2**30)
    assert cache.put("tenant", [1, 2], state)
    assert moves.pop() == ["cpu"] * 4
    assert cache.find("tenant", [1, 2, 3]).position == 2
    assert moves.pop() == ["meta"] * 3 + ["cpu"]


# ---- calls


def test_lengths_are_checked_on_the_cpu(models):
    model = model_on_meta(models["7"])
    logits, state = model.forward([[1, 2, 3], [4, 5, 0]], lengths=[3, 2])
    assert state.tokens_seen == (3, 2)
    assert logits.shape == (2, 300)
    logits, state = model.forward([[1, 2], [4, 0]], state, lengths=[2, 1], all_logits=True)
    assert state.tokens_seen == (5, 3)


def test_a_gpu_reads_more_tokens_at_once_than_a_cpu(models):
    passes = []
    for text, expected in (("meta", [4096, 1904]), ("cpu", [512] * 11 + [368])):
        model = model_on_meta(models["4"])
        model.strategy = place([Segment(text, torch.float32)], 3)
        model.network.register_forward_pre_hook(lambda _, args: passes.append(args[0].shape[1]))
        model.hidden(torch.zeros(6000, dtype=torch.long))
        assert passes == expected
        passes.clear()


def test_kernels_of_a_gpu_are_its_name(models, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    source = models["4"]
    built = network("4", 3)
    for segments, expected in (
        ([Segment("cuda:1", torch.float32)], "Card 1"),
        ([Segment("cuda:0", torch.float32), Segment("cuda:1", torch.float32)], "Card 0 + Card 1"),
        ([Segment("mps", torch.float32)], "mps"),
    ):
        model = Model(
            built,
            strategy=place(segments, 3),
            path=source.path,
            identity=source.identity,
            layout="pth",
            make_tokenizer=lambda: None,
        )
        assert model.kernels == expected


def test_only_the_first_block_on_a_device_copies_its_inputs(checkpoint_paths):
    """Count the copies to a second device of one block and of two blocks."""
    from tests.unit.test_strategy import _torch_network

    for generation in GENERATIONS:
        copies = []
        for first in (2, 1):
            segments = [Segment("cpu", torch.float32, count=first), Segment("meta", torch.float32)]
            built = _torch_network(checkpoint_paths[generation], place(segments, 3))
            layers, lengths = built.new_layers(2), torch.tensor([4, 3])
            with Launches() as counted:
                built(torch.zeros(2, 4, dtype=torch.long), layers, lengths)
            copies.append(counted.names.count("aten._to_copy.default"))
        # One mask a layer becomes floats; 7a also copies the rows of its table.
        assert copies[1] - copies[0] <= (1 if generation == "7a" else 0), generation


# ---- products


def test_products_of_16_bits_return_their_float32_sums_where_pytorch_can():
    for dtype in (torch.bfloat16, torch.float16):
        x, weight = (torch.ones(2, 16, 16, dtype=dtype, device=META) for _ in range(2))
        with torch.no_grad(), Launches() as counted:
            assert matmul(x, weight).dtype == torch.float32
            assert matmul(x, weight[0]).dtype == torch.float32
            assert products_module.linear(x, weight[0], torch.float32).dtype == torch.float32
        assert not any("_to_copy" in name for name in counted.names)
        assert counted.names.count("aten.mm.dtype") >= 2
        assert counted.names.count("aten.bmm.dtype") == 1


@pytest.mark.parametrize("error", [TypeError("out_dtype"), NotImplementedError("no such product")])
def test_products_round_where_pytorch_cannot_return_float32(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    products_module._can_return_float32.cache_clear()
    monkeypatch.setattr(torch, "mm", refuse)
    try:
        x, weight = (torch.ones(16, 16, dtype=torch.float16, device=META) for _ in range(2))
        with torch.no_grad():
            assert products_module.linear(x, weight, torch.float32).dtype == torch.float32
            assert matmul(x, weight).dtype == torch.float32
    finally:
        products_module._can_return_float32.cache_clear()


@pytest.mark.parametrize("size", [1e-3, 1.0, 255.0, 300.0, 1000.0, 60000.0])
def test_squares_of_large_units_are_finite_in_fp16(size):
    key, value = Linear(32, 64), Linear(64, 32)
    for layer in (key, value):
        nn.init.uniform_(layer.weight, -1.0, 1.0)
    x = torch.randn(3, 32)
    x *= size / key(x).abs().max()
    expected = value(torch.relu(key(x)).square())
    found = parts.squared_relu(x, key.half(), value.half())
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 2e-3 * expected.norm()


def test_a_token_without_hidden_units_gives_zeros_in_fp16():
    value = Linear(4, 2).half()
    nn.init.ones_(value.weight)
    hidden = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e30, 0.0, 0.0, 0.0]])
    assert torch.equal(parts.from_hidden(hidden, value), torch.tensor([[0.0, 0.0], [1e30, 1e30]]))


def test_a_token_matrix_does_not_make_fp16_infinite(checkpoint_paths):
    model = wkv.load(checkpoint_paths["7a"], "cpu fp32", engine="torch")
    mix = model.network.blocks[0].ffn
    mix.key.weight *= 400
    for module in mix.modules():
        if isinstance(module, Linear):
            module.half()
            module.product = products_module.linear
    logits, _ = model.forward([1, 2, 3])
    assert bool(logits.isfinite().all())


def test_an_int8_matrix_becomes_floats_in_pieces():
    outputs, inputs = 65536, 4096  # a head
    with META:
        head = Int8Linear(inputs, outputs, Placement(META, torch.float16, quantized=True))
    x = torch.ones(1, inputs, device=META)
    with torch.no_grad(), Launches() as made:
        assert head(x).shape == (1, outputs)
    largest = max(tensor.nbytes for tensor in made.results if tensor.dtype == torch.float16)
    assert largest <= 2**25  # 32 MiB, where the whole matrix has 512 MiB
    assert len(made.names) < 3 * 16 + 30


# ---- streamed weights


class FakeStream:
    def __init__(self, name, log):
        self.name, self.log = name, log

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def log(monkeypatch):
    """Replace CUDA's streams by ones that record what waits for what."""
    events = []
    main = FakeStream("main", events)
    current = [main]

    @contextmanager
    def inside(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda _: FakeStream("copies", events))
    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current[-1])
    return events


def test_the_next_weight_is_copied_during_a_product(log):
    cpu, copies = torch.device("cpu"), WeightCopies()
    weights = [torch.full((size, 3), float(size)) for size in (2, 5, 4)]
    taken = []
    for repeat in range(3):
        for weight in weights:
            before = len(log)
            copy = copies.take(weight, cpu)
            assert torch.equal(copy, weight)
            assert copy.data_ptr() != weight.data_ptr()
            taken.append(copy.untyped_storage().data_ptr())
            waits = log[before:]
            if repeat == 0:  # the order is not known yet
                assert waits == ["copies waits for main", "main waits for copies"]
            elif repeat == 2:  # the weight is there already, and the next one begins
                assert waits == ["main waits for copies", "copies waits for main"]
    assert len(set(taken[-4:])) == 2
    assert all(a != b for a, b in zip(taken[-4:], taken[-3:], strict=False))


def test_another_order_of_weights_gives_the_same_values(log):
    cpu, copies = torch.device("cpu"), WeightCopies()
    weights = [torch.full((4, 3), float(number)) for number in range(4)]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (0, 0, 1, 3), (2, 1, 0, 3)):
        for index in order:
            assert torch.equal(copies.take(weights[index], cpu), weights[index])


def test_streamed_weights_of_a_network_share_their_buffers(checkpoint_paths):
    for text in ("cpu fp32 *0+", "cpu fp32i8 *0+"):
        built = wkv.load(checkpoint_paths["6"], text, engine="torch").network
        owners = {
            id(cell.cell_contents)
            for module in built.modules()
            if isinstance(module, (Linear, Int8Linear)) and module.product.__closure__
            for cell in module.product.__closure__
            if isinstance(cell.cell_contents, WeightCopies)
        }
        assert len(owners) == 1


# ---- auto, and measurements


def test_auto_counts_what_will_lie_on_the_gpu(checkpoint_paths, monkeypatch):
    description = describe(checkpoint_paths["7a"])
    strategy = place([Segment("cuda", torch.float32)], 3)
    needed = gpu_bytes(description.config, description.shapes, strategy)
    tables = sum(
        4 * torch.Size(shape).numel()
        for name, shape in description.shapes.items()
        if name.endswith(("emb.weight", "s_emb.weight"))
    )
    weights = 4 * description.n_params - tables
    states = 16 * description.state_bytes
    assert needed > weights + 2 * states + 16 * 4 * description.config.vocab_size
    more = gpu_bytes(
        description.config, description.shapes, place([Segment("cpu", torch.float32)], 3)
    )
    assert needed - more == pytest.approx(weights, rel=0.01)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free, device in ((needed / 0.8, "cuda"), (needed / 0.95, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (int(free), 2**40))
        assert strategy_for(description, "auto").device.type == device


def test_a_gpu_measures_many_reads_at_once(monkeypatch):
    made = []

    def event(enable_timing):
        assert enable_timing
        made.append(SimpleNamespace(record=lambda: None, synchronize=lambda: waits.append(1)))
        made[-1].elapsed_time = lambda end: 40.0 if end is made[1] else 0.0
        return made[-1]

    waits, reads = [], []
    monkeypatch.setattr(torch.cuda, "Event", event)
    assert gpu_seconds(lambda: reads.append(1), 20) == 0.002
    assert (len(reads), len(waits)) == (20, 1)
