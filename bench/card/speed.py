"""The section "speed": tokens per second of the engines in turns, and what a model predicts."""

import gc
import statistics
from collections.abc import Callable
from copy import copy
from typing import Any

import torch

from bench.card import engines
from bench.card.engines import Size
from bench.card.report import Card
from bench.card.timing import seconds_of
from wkv.errors import BusyError
from wkv.gpu.module_step import ModuleStep
from wkv.gpu.network import GpuNetwork
from wkv.models.parts import Skeleton

ROUNDS, TURN = 3, 0.3
"""Number of rounds, and seconds of a turn."""

ROWS, PROMPTS = (1, 16, 64, 320), ((1, 512), (1, 2048), (8, 512))

LAUNCHES, OVERHEAD = 8, 10
"""Launches of a layer and of the rest of a step, for the predicted time."""


def measure_speed(card: Card) -> None:
    """Measure all engines on models of two sizes."""
    dtype = torch.float32 if card.dry else torch.float16
    for size in (engines.TINY,) if card.dry else engines.SIZES:
        try:
            modules = engines.random_network(size, dtype, card.device)
        except torch.OutOfMemoryError:
            card.note(f"{size.name} does not fit into the memory")
            continue
        _measure(card, size, modules, _networks(modules))
        del modules
        gc.collect()


def _networks(modules: Skeleton) -> dict[str, Skeleton | GpuNetwork]:
    """Return the same weights on all engines."""
    step: Any = engines.kernel_step(modules)
    dense = copy(step)  # shares the packed weights
    dense.skip_zeros = False
    return {
        "eager": modules,
        "graphs": engines.on_engine(modules, ModuleStep(modules)),
        "cuda": engines.on_engine(modules, step),
        "cuda, zeros read": engines.on_engine(modules, dense),
    }


def _measure(
    card: Card, size: Size, modules: Skeleton, networks: dict[str, Skeleton | GpuNetwork]
) -> None:
    """Measure decode and prefill of one size, the engines in turns."""
    matrices = [p for name, p in modules.named_parameters() if p.dim() == 2 and "emb" not in name]
    n_bytes = sum(matrix.nbytes for matrix in matrices)
    for rows in (1, 5) if card.dry else ROWS:
        tasks: dict[str, Callable[[], None]] = {}
        for engine, network in networks.items():
            if engine != "cuda, zeros read" or rows <= 4:
                tasks[engine] = engines.decoder(network, rows, card.device)
        predicted = _predicted(card, size, n_bytes, rows)
        _in_turns(card, f"{size.name} decode {rows}", tasks, rows, n_bytes, predicted)
    for rows, length in ((1, 6),) if card.dry else PROMPTS:
        tasks = {
            engine: _prefill(network, rows, length, card.device)
            for engine, network in networks.items()
            if engine in ("eager", "cuda")
        }
        predicted = _predicted(card, size, n_bytes, rows * length, rows)
        name = f"{size.name} prefill {rows} x {length}"
        _in_turns(card, name, tasks, rows * length, n_bytes, predicted)


def _in_turns(
    card: Card,
    name: str,
    tasks: dict[str, Callable[[], None]],
    tokens: int,
    n_bytes: int,
    predicted: float,
) -> None:
    """Measure some functions in alternation; record the median and the spread of each."""
    if card.is_late:
        card.note(f"{name}: out of time")
        return
    seconds: dict[str, list[float]] = {engine: [] for engine in tasks}
    for _ in range(1 if card.dry else ROUNDS):
        for engine, run in list(tasks.items()):
            try:
                seconds[engine].append(seconds_of(card, run, TURN))
            except (BusyError, torch.OutOfMemoryError) as error:
                card.note(f"{name}, {engine}: {str(error).splitlines()[0][:100]}")
                del tasks[engine]
    for engine, times in seconds.items():
        if times:
            middle = statistics.median(times)
            card.row(
                task=name,
                engine=engine,
                tokens_per_s=tokens / middle,
                spread=(max(times) - min(times)) / middle,
                share_of_R=n_bytes / middle / card.facts["read"],
                predicted=tokens / predicted,
            )


def _prefill(
    network: Skeleton | GpuNetwork, rows: int, length: int, device: torch.device
) -> Callable[[], None]:
    """Return a function that reads prompts from the empty state."""
    vocab = network.config.vocab_size
    where = device if isinstance(network, Skeleton) else "cpu"
    ids = torch.arange(rows * length, device=where).view(rows, length) * 7 % vocab

    @torch.no_grad()
    def run() -> None:
        X, _ = network(ids, network.new_layers(rows))
        network.logits(X[:, -1])

    return run


def _predicted(card: Card, size: Size, n_bytes: int, tokens: int, rows: int = 0) -> float:
    """Return the seconds of a step: weights or arithmetic, states, and launches.

    max(bytes / R, operations / C) + state bytes / S + launches tau
    """
    facts = card.facts
    weights = n_bytes / (4 if card.dry else 2)
    state = 4 * size.n_layer * size.n_embd * (size.head_size + 2)
    work = max(n_bytes / facts["read"], 2 * weights * tokens / facts["flops"])
    states = 2 * (rows or tokens) * state / facts["copy"]
    return work + states + (LAUNCHES * size.n_layer + OVERHEAD) * facts["graph_launch"]
