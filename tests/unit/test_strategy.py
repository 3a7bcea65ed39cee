"""Strategy strings, and what `auto` picks."""

import threading

import pytest
import torch

import wkv
from wkv.strategy import choose_strategy, linear_for, products_for

BF16, FP32, FP16 = [torch.bfloat16], [torch.float32], [torch.float16]
BIG = 10**9


@pytest.mark.parametrize(("text", "dtype"), [("cpu fp32", torch.float32), ("cpu bf16", BF16[0])])
def test_named_strategies(text, dtype):
    chosen = choose_strategy(text, FP32, BIG)
    assert (chosen.device.type, chosen.dtype, str(chosen)) == ("cpu", dtype, text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("cpu fp16", "native CPU engine"),
        ("cpu int8", "quantised"),
        ("cpu int4", "quantised"),
        ("cuda fp16i8", "quantised"),
        ("cpu fp32 *2 -> cpu bf16", "cannot do yet"),
        ("cuda fp16 *10+", "cannot do yet"),
        ("cpu", "no strategy"),
        ("fp32", "no strategy"),
        ("cpu fp64", "no dtype"),
        ("tpu fp32", "no strategy"),
        ("", "no strategy"),
        (None, "a strategy is a string"),
    ],
)
def test_wrong_strategies_say_what_is_expected(text, match):
    with pytest.raises(wkv.StrategyError, match=match):
        choose_strategy(text, FP32, BIG)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named():
    with pytest.raises(wkv.StrategyError, match="PyTorch sees 0 CUDA devices"):
        choose_strategy("cuda fp16", FP16, BIG)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_auto_is_never_coarser_than_the_file(monkeypatch):
    monkeypatch.setattr("wkv.strategy._fast_bf16", lambda: True)
    assert choose_strategy("auto", FP32, BIG).dtype == torch.float32
    assert choose_strategy("auto", FP16, BIG).dtype == torch.float32
    assert choose_strategy("auto", BF16, BIG).dtype == torch.bfloat16
    assert choose_strategy("auto", BF16, 10**6).dtype == torch.float32
    monkeypatch.setattr("wkv.strategy._fast_bf16", lambda: False)
    assert choose_strategy("auto", BF16, BIG).dtype == torch.float32
    monkeypatch.setattr("wkv.strategy._memory_bytes", lambda: 3 * BIG)
    chosen = choose_strategy("auto", BF16, BIG)
    assert chosen.dtype == torch.bfloat16
    assert "would not fit" in chosen.reason


def test_the_switch_of_products_is_put_back_after_threads_overlap():
    strategy = choose_strategy("cpu bf16", BF16, BIG)
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

    monkeypatch.setattr("wkv.loading._fill", full)
    with pytest.raises(wkv.StrategyError, match=r"does not fit into the memory of cpu.*GiB"):
        wkv.load()


@pytest.mark.parametrize("text", ["cpu fp32", "cpu bf16"])
def test_products_equal_pytorchs_and_know_gradients(text):
    strategy = choose_strategy(text, FP32, BIG)
    product = linear_for(strategy)
    for rows in (1, 2, 33):
        x, weight = (torch.randn(s, dtype=strategy.dtype) for s in ((1, rows, 48), (20, 48)))
        with torch.no_grad():
            found = product(x, weight)
        assert found.shape == (1, rows, 20)
        assert torch.allclose(found.float(), x.float() @ weight.float().t(), atol=1e-5, rtol=1e-2)
    weight.requires_grad_()
    product(x, weight).sum().backward()
    assert weight.grad is not None
