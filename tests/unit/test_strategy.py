"""Strategy strings: what they mean, what `auto` picks; models split, streamed and int8."""

import re
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import wkv
from tests.checkpoints import GENERATIONS
from wkv.checkpoint.weights import Weights
from wkv.convert.checkpoint_file import convert
from wkv.inference.describe import describe
from wkv.inference.torch_weights import load_torch_network
from wkv.models.int8 import Int8Linear, quantize
from wkv.models.strategy import Placement, Segment, allocate, choose_strategy, read_strategy
from wkv.models.strategy.placement import place
from wkv.models.strategy.products import linear_for, products_for

BF16, FP32, FP16 = [torch.bfloat16], [torch.float32], [torch.float16]
BIG = 10**9
CPU = torch.device("cpu")

# the package's own pattern, to which wkv adds the refusal of what it accepts and cannot do
PACKAGE = (
    r"^(?:(?:^|->) *(?:cuda(?::[\d]+)?|cpu|mps|dml) (?:fp(?:16|32)|bf16)(?:i8|i4|i3)?"
    r"(?: \*[\d]+\+?)? *)+$"
)


def chosen(text, dtypes=FP32, n_layer=3, n_params=BIG):
    return choose_strategy(text, n_layer, dtypes, n_params)


@pytest.mark.parametrize(("text", "dtype"), [("cpu fp32", torch.float32), ("cpu bf16", BF16[0])])
def test_named_strategies(text, dtype):
    strategy = chosen(text)
    assert (strategy.device, strategy.dtype, str(strategy)) == (CPU, dtype, text)
    assert strategy.layers == (Placement(CPU, dtype),) * 4


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("cpu fp32 *1 -> cpu fp32", [(1, 0), (3, 0)]),
        ("cpu fp32 -> cpu bf16", [(2, 0), (2, 0)]),
        ("cpu fp32 -> cpu bf16 *1", [(3, 0), (1, 0)]),
        ("cpu fp32 *1 -> cpu bf16 *1", [(1, 0), (3, 0)]),
        ("cpu fp32 *9", [(4, 0)]),
        ("cpu fp32 *2+ -> cpu bf16", [(2, 2), (0, 0)]),
        ("cpu fp32 *0 -> cpu fp32", [(0, 0), (4, 0)]),  # ChatRWKV divides by zero
        ("cuda fp16 *0+ -> cpu fp32 *1", [(0, 3), (1, 0)]),
        ("cpu fp32 -> cpu bf16 -> cpu fp32", [(1, 0), (1, 0), (2, 0)]),
        ("cpu fp32 *3 -> cpu bf16 *3 -> cpu fp32", [(3, 0), (1, 0), (0, 0)]),
    ],
)
def test_layers_are_allocated_as_chatrwkv_does(text, counts):
    assert allocate(read_strategy(text), 3) == counts


SEGMENTS = st.lists(
    st.tuples(
        st.sampled_from(["cpu fp32", "cpu bf16", "cuda fp16i8", "cuda:1 bf16", "mps fp32i8"]),
        st.sampled_from(["", " *0", " *1", " *3", " *40", " *0+", " *2+"]),
    ).map("".join),
    min_size=1,
    max_size=5,
)


@given(segments=SEGMENTS, n_layer=st.integers(1, 40))
def test_every_layer_is_placed_once_and_the_string_survives(segments, n_layer):
    text = "->".join(segments)
    read = read_strategy(text)
    strategy = place(read, n_layer)
    assert len(strategy.layers) == n_layer + 1
    assert str(strategy) == " -> ".join(segments)
    assert read_strategy(str(strategy)) == read
    streamed = [layer.streamed for layer in strategy.layers]
    assert any(streamed) <= ("+" in text)


@given(
    text=st.lists(
        st.sampled_from(
            [
                "cpu",
                "cuda",
                "cuda:1",
                "gpu",
                " ",
                "fp32",
                "fp32i8",
                "bf16",
                "*1",
                "*2+",
                "->",
                " -> ",
            ]
        ),
        max_size=9,
    ).map("".join)
)
def test_the_grammar_is_chatrwkvs(text):
    accepted = re.match(PACKAGE, text) is not None
    accepted &= not text.lstrip(" ").startswith("->")  # matches the pattern, and crashes later
    try:
        read_strategy(text)
    except wkv.StrategyError:
        assert not accepted
    else:
        assert accepted


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("cpu fp16i8", r"character 5, at 'fp16i8'.*use int8, or ChatRWKV's bf16i8"),
        ("cuda int8", r"character 6, at 'int8'.*runs on the cpu; here use fp16i8"),
        ("cuda:0 int4", "runs on the cpu"),
        ("cpu int8i8", "expected a dtype"),
        ("cpu int8 -> cuda fp16", "int8 and int4 .* need all layers on the cpu"),
        ("cuda fp16i4", r"character 6.*not a supported dtype; use fp16i8"),
        ("cuda fp16i3", "not a supported dtype"),
        ("cpu fp32 *2 -> gpu bf16", r"character 16, at 'gpu bf16': expected a device"),
        ("cpu fp32 * 2", r"character 9, at ' \* 2': expected one space, `\*` and a number"),
        ("cpu fp32*2", "character 9"),
        ("cpu fp32 *2++", r"character 13, at '\+'"),
        ("cpu fp32 *99999999", "no model has so many layers"),
        ("cuda:99999999 fp16", "no machine has so many devices"),
        ("cpu fp32 ->", "character 12, at its end: expected a device"),
        ("cpu", "character 4, at its end"),
        ("fp32", "character 1, at 'fp32'"),
        ("cpu fp64", "expected a dtype"),
        ("tpu fp32", "expected a device"),
        ("", "expected a device"),
        ("dml fp32", "torch-directml"),
        (None, "a strategy is a string"),
    ],
)
def test_wrong_strategies_point_at_the_character(text, match):
    with pytest.raises(wkv.StrategyError, match=match):
        chosen(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named():
    with pytest.raises(wkv.StrategyError, match="PyTorch sees 0 CUDA devices"):
        chosen("cpu fp32 *1 -> cuda fp16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_auto_is_never_coarser_than_the_file(monkeypatch):
    monkeypatch.setattr("wkv.models.strategy.choose._fast_bf16", lambda: True)
    assert chosen("auto", FP32).dtype == torch.float32
    assert chosen("auto", FP16).dtype == torch.float32
    assert chosen("auto", BF16).dtype == torch.bfloat16
    assert chosen("auto", BF16, n_params=10**6).dtype == torch.float32
    monkeypatch.setattr("wkv.models.strategy.choose._fast_bf16", lambda: False)
    assert chosen("auto", BF16).dtype == torch.float32
    monkeypatch.setattr("wkv.models.strategy.choose.memory_bytes", lambda: 3 * BIG)
    strategy = chosen("auto", BF16)
    assert strategy.dtype == torch.bfloat16
    assert "would not fit" in strategy.reason


def test_the_switch_of_products_is_put_back_after_threads_overlap():
    strategy = chosen("cpu bf16")
    barrier = threading.Barrier(4)
    seen = []

    def work():
        for _ in range(20):
            with products_for(1, strategy):
                barrier.wait()
                seen.append(torch._C._get_mkldnn_enabled())

    before = torch._C._get_mkldnn_enabled()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch._C._get_mkldnn_enabled() == before
    assert not any(seen)


def test_memory_that_runs_out_is_told_with_its_size(monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("wkv.inference.load.load_torch_network", full)
    with pytest.raises(wkv.StrategyError, match=r"does not fit into the memory of cpu.*GiB"):
        wkv.load(engine="torch")


@pytest.mark.parametrize("text", ["cpu fp32", "cpu bf16", "cpu fp32 *0+"])
def test_products_equal_pytorchs_and_know_gradients(text):
    placement = chosen(text).layers[0]
    product = linear_for(placement)
    for rows in (1, 2, 33):
        x, weight = (torch.randn(s, dtype=placement.dtype) for s in ((1, rows, 48), (20, 48)))
        with torch.no_grad():
            found = product(x, weight)
        assert found.shape == (1, rows, 20)
        assert torch.allclose(found.float(), x.float() @ weight.float().t(), atol=1e-5, rtol=1e-2)
    weight.requires_grad_()
    product(x, weight).sum().backward()
    assert weight.grad is not None


# ---- models under a strategy

IDS = [5, 250, 17, 3, 99, 99, 1, 0, 42, 7, 123, 299]


def logits(model):
    """One sequence, then the same ids one by one."""
    together, _ = model.forward(IDS, all_logits=True)
    rows, state = [], None
    for token in IDS:
        row, state = model.forward([token], state)
        rows.append(row)
    return together, torch.stack(rows)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "text", ["cpu fp32 *1 -> cpu fp32", "cpu fp32 *0+", "cpu fp32 *2+ -> cpu fp32 *1"]
)
def test_splits_and_streaming_change_nothing(checkpoint_paths, models, generation, text):
    together, one_by_one = logits(wkv.load(checkpoint_paths[generation], text))
    expected, _ = logits(models[generation])
    assert torch.equal(together, expected)
    assert (one_by_one - expected).abs().max() < 1e-4


@pytest.mark.parametrize("generation", GENERATIONS)
def test_mixed_dtypes_run_and_stay_close(checkpoint_paths, models, generation):
    text = "cpu fp32 *2 -> cpu bf16 -> cpu fp32 *1"
    model = wkv.load(checkpoint_paths[generation], text, engine="torch")
    kinds = {model.network.get_parameter(f"blocks.{i}.att.key.weight").dtype for i in range(3)}
    assert kinds == {torch.float32, torch.bfloat16}
    together, one_by_one = logits(model)
    expected, _ = logits(models[generation])
    assert 0 < (together - expected).abs().max() < 0.2
    assert (together - one_by_one).abs().max() < 0.1


@pytest.mark.parametrize("generation", GENERATIONS)
def test_padded_batches_run_split_over_layers(checkpoint_paths, models, generation):
    model = wkv.load(checkpoint_paths[generation], "cpu fp32 *1 -> cpu fp32i8")
    batch = torch.tensor([IDS, IDS[:5] + [0] * 7])
    both, state = model.forward(batch, lengths=[12, 5])
    alone, short = model.forward(IDS[:5])
    assert (both[1] - alone).abs().max() < 1e-4
    assert (state.layers[2].wkv[1] - short.layers[2].wkv[0]).abs().max() < 1e-4


@pytest.mark.parametrize("generation", GENERATIONS)
def test_each_block_is_given_its_input_on_its_own_device(checkpoint_paths, generation):
    segments = [Segment("cpu", torch.float32, count=2), Segment("meta", torch.bfloat16)]
    network = _torch_network(checkpoint_paths[generation], place(segments, 3))
    layers = network.new_layers(2)
    assert [layer.wkv.device.type for layer in layers] == ["cpu", "cpu", "meta"]
    X, new = network(torch.tensor([IDS, IDS]), layers, torch.tensor([12, 3]))
    assert [layer.wkv.device.type for layer in new] == ["cpu", "cpu", "meta"]
    assert X.device.type == "meta"
    back = _torch_network(checkpoint_paths[generation], place(segments[::-1], 2))
    assert back.head.weight.device.type == "cpu"
    assert network.logits(X).device.type == "meta"


def _torch_network(path, strategy):
    description = describe(path)
    weights = Weights(description.checkpoint, description.shapes, strategy)
    return load_torch_network(description.config, weights)


def test_streamed_matrices_stay_in_main_memory(checkpoint_paths):
    segments = [Segment("meta", torch.float32, count=1, streamed=True)]
    network = _torch_network(checkpoint_paths["6"], place(segments, 3))
    where = {name: tensor.device.type for name, tensor in network.state_dict().items()}
    assert where["blocks.0.att.key.weight"] == "meta"
    assert where["emb.weight"] == "cpu"
    for name in ("att.key", "att.output", "ffn.value", "ffn.receptance"):
        assert where[f"blocks.1.{name}.weight"] == "cpu"
    for name in ("blocks.1.att.gate.weight", "head.weight", "blocks.2.att.time_maa_w1"):
        assert where[name] == "meta"
    network(torch.tensor([IDS]), network.new_layers(1))


# ---- int8


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["normal", "constant", "constant row", "constant column"]),
)
def test_int8_is_within_half_a_step_of_the_matrix(shape, seed, kind):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if kind == "constant":
        weight[:] = 0.5
    elif kind == "constant row":
        weight[0] = 0.25
    elif kind == "constant column":
        weight[:, 0] = -0.25
    parts = quantize(weight)
    step = 16 * 16 * parts["weight_rx"][:, None] * parts["weight_ry"] / 256
    q = parts["weight"].float() + 128.5
    again = q / 256 * (256 * step) + parts["weight_mx"][:, None] + parts["weight_my"]
    assert torch.isfinite(again).all()  # the package divides 0 by 0 on constant rows and columns
    assert ((again - weight).abs() <= step / 2 + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_int8_products_equal_the_matrix_they_stand_for(dtype, rows):
    weight, x = torch.randn(200, 96), torch.randn(1, rows, 96)
    layer = Int8Linear(96, 200, Placement(CPU, dtype, quantized=True))
    parts = quantize(weight)
    layer.load_state_dict(parts)
    q = parts["weight"].float() + 128.5
    stands_for = q * parts["weight_rx"][:, None] * parts["weight_ry"]
    stands_for += parts["weight_mx"][:, None] + parts["weight_my"]
    # rounding of the inputs and of the result, each at most half of eps of its size
    sizes = (x * parts["weight_ry"]).abs() @ (parts["weight"].float().abs().t())
    bound = torch.finfo(dtype).eps * sizes * parts["weight_rx"] + 2e-5
    assert ((layer(x) - x @ stands_for.t()).abs() <= bound).all()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_only_the_matrices_of_the_mixes_and_the_head_are_int8(checkpoint_paths, generation):
    network = wkv.load(checkpoint_paths[generation], "cpu fp32i8").network
    int8 = {name for name, tensor in network.state_dict().items() if tensor.dtype == torch.int8}
    assert "head.weight" in int8
    assert {name.split(".")[-2] for name in int8} <= {
        "head", "receptance", "key", "value", "gate", "output"
    }  # fmt: skip
    assert len(int8) == 3 * (len([n for n in int8 if n.startswith("blocks.1.")])) + 1


def test_an_int8_file_cannot_become_floats_again(checkpoint_paths, tmp_path):
    made = convert(checkpoint_paths["6"], tmp_path / "small", strategy="cpu fp32i8")
    assert str(wkv.load(made.path).strategy) == "cpu fp32i8"
    assert wkv.load(made.path).strategy.reason == "the file was converted for it"
    with pytest.raises(wkv.StrategyError, match=r"is int8 in this file, made for .*cpu fp32i8"):
        wkv.load(made.path, "cpu fp32")


def test_int8_products_in_fp16_do_not_overflow():
    weight = torch.randn(64, 512) * 0.02
    layer = Int8Linear(512, 64, Placement(CPU, torch.float16, quantized=True))
    layer.load_state_dict(quantize(weight))
    for size in (1.0, 30.0, 1000.0):  # squares of hidden units are large
        x = torch.relu(torch.randn(2, 512) * size) ** 2
        expected = x @ weight.t()
        assert ((layer(x) - expected).abs().max() / expected.abs().max()) < 0.05
    assert torch.equal(layer(torch.zeros(1, 512)), torch.zeros(1, 64))


def test_auto_says_when_nothing_fits(monkeypatch):
    monkeypatch.setattr("wkv.models.strategy.choose.memory_bytes", lambda: BIG)
    with pytest.raises(wkv.StrategyError, match=r"more than this machine has.*cpu bf16"):
        chosen("auto", FP16)
    assert chosen("auto", FP32).dtype == torch.float32  # mapped to the file


def test_a_file_made_for_another_machine_says_so(checkpoint_paths, tmp_path):
    made = convert(checkpoint_paths["6"], tmp_path / "gpu", strategy="cuda:9 fp16i8")
    with pytest.raises(wkv.StrategyError, match="was converted for 'cuda:9 fp16i8', which this"):
        wkv.load(made.path)


def test_the_number_of_threads_is_put_back_after_threads_overlap():
    from wkv.models.strategy.products import threads_for

    before = torch.get_num_threads()
    barrier, seen = threading.Barrier(3), []

    def work():
        with threads_for(0, chosen("cpu fp32"), 2):
            barrier.wait()
            seen.append(torch.get_num_threads())
            barrier.wait()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == before
