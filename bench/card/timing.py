"""The section "card": what the card reads, writes and multiplies, and what a launch costs."""

import platform
import time
from collections.abc import Callable

import torch

from bench.card.report import Card
from wkv.bench.memory_bandwidth import gpu_seconds
from wkv.gpu.requirements import missing

LAUNCHES = 1000


def seconds_of(card: Card, run: Callable[[], object], least: float) -> float:
    """Return the seconds of one call, from calls that take `least` seconds together.

    A dry run calls once.
    """
    for _ in range(1 if card.dry else 2):  # the first call warms up
        begun = time.perf_counter()
        run()
        synchronize(card)
        seconds = time.perf_counter() - begun
    return seconds if card.dry else gpu_seconds(run, max(1, int(least / max(seconds, 1e-6))))


def synchronize(card: Card) -> None:
    """Wait until the device has finished."""
    if card.device.type == "cuda":
        torch.cuda.synchronize(card.device)


def measure_card(card: Card) -> None:
    """Measure bandwidths (R, S), products (C), and the time of a launch (tau)."""
    device, facts = card.device, card.facts
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    lack = missing()
    card.note(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    card.note("Triton and a C compiler are there" if lack is None else str(lack))
    for size in (2**20,) if card.dry else (2**30, 2**31, 2**32):
        buffer = torch.ones(size // 4, device=device)
        read = size / seconds_of(card, buffer.sum, 0.2)
        target = torch.empty_like(buffer)
        copied = 2 * size / seconds_of(card, lambda b=buffer, t=target: t.copy_(b), 0.02)
        facts["read"] = max(facts.get("read", 0.0), read)
        facts["copy"] = max(facts.get("copy", 0.0), copied)
        card.row(GiB=size / 2**30, read_TBs=read / 1e12, copy_TBs=copied / 1e12)
        del buffer, target
    width = 64 if card.dry else 4096
    dtype = torch.float32 if card.dry else torch.float16
    A, B = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    facts["flops"] = 2 * width**3 / seconds_of(card, lambda: A @ B, 0.02)
    facts["eager_launch"] = _launch(card, captured=False)
    facts["graph_launch"] = _launch(card, captured=True)
    card.row(
        fp16_TFLOPs=facts["flops"] / 1e12,
        eager_launch_us=1e6 * facts["eager_launch"],
        graph_launch_us=1e6 * facts["graph_launch"],
    )


def _launch(card: Card, *, captured: bool) -> float:
    """Return the seconds of one of many dependent additions, eager or in a graph."""
    x = torch.zeros(1024, device=card.device)
    times = 10 if card.dry else LAUNCHES

    def run() -> None:
        for _ in range(times):
            x.add_(1)

    if captured and card.device.type == "cuda":
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        run_once: Callable[[], None] = graph.replay
    else:
        run_once = run
    run_once()
    synchronize(card)
    begun = time.perf_counter()
    run_once()
    synchronize(card)
    return (time.perf_counter() - begun) / times
