"""The section "where time goes": launches, busy and idle time, and the largest kernels."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.card import engines
from bench.card.report import Card
from bench.card.timing import synchronize

STEPS, LARGEST = 5, 12


def measure_breakdown(card: Card) -> None:
    """Profile decode steps of one row and of many rows."""
    size = engines.TINY if card.dry else engines.SIZES[0]
    dtype = torch.float32 if card.dry else torch.float16
    modules = engines.random_network(size, dtype, card.device)
    network = engines.on_engine(modules, engines.kernel_step(modules))
    on_gpu = card.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    for rows in (1, 5) if card.dry else (1, 64):
        step = engines.decoder(network, rows, card.device)
        step()
        synchronize(card)
        steps = 1 if card.dry else STEPS
        with profile(activities=[activity]) as profiler:
            for _ in range(steps):
                step()
            synchronize(card)
        _report(card, profiler, rows, steps, on_gpu=on_gpu)


def _report(card: Card, profiler: Any, rows: int, steps: int, *, on_gpu: bool) -> None:
    """Record the totals of a profile, and its largest kernels."""
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    averages = sorted(profiler.key_averages(), key=lambda event: -getattr(event, field))
    events = [
        event for event in profiler.events() if not on_gpu or "CUDA" in str(event.device_type)
    ]
    busy = sum(getattr(event, field) for event in averages)
    begin = min((event.time_range.start for event in events), default=0)
    end = max((event.time_range.end for event in events), default=0)
    card.row(
        rows=rows,
        launches=len(events) // steps,
        busy_us=busy / steps,
        idle_us=max(0.0, (end - begin - busy) / steps),
    )
    for event in averages[:LARGEST]:
        card.row(
            rows=rows,
            kernel=event.key[:48],
            calls=event.count // steps,
            us=getattr(event, field) / steps,
        )
