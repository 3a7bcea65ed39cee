"""The section "graphs": replays equal the same step run eagerly, bit for bit."""

import threading

import torch
from torch import Tensor

from bench.card import engines
from bench.card.report import Card
from bench.card.timing import synchronize
from wkv.gpu.graphs import call_again
from wkv.gpu.network import GpuNetwork, NetworkWeights


def check_graphs(card: Card) -> None:
    """Compare captured steps with eager ones, with rows that come and go and with two threads."""
    size = engines.TINY if card.dry else engines.Size("small", 4, 512, (64, 64, 32, 128), 1000)
    dtype = torch.float32 if card.dry else torch.float16
    modules = engines.random_network(size, dtype, card.device)
    step = engines.kernel_step(modules)
    network = engines.on_engine(modules, step)
    weights = NetworkWeights.of_modules(modules)
    eager = GpuNetwork(step, weights, modules.new_layers(1), capture=call_again)
    many = 2 if card.dry else 200
    for rows in (2, 5) if card.dry else (1, 2, 3, 8, 64, 65):
        if card.is_late:
            card.check(f"{rows} rows", False, "out of time")
            continue
        _compare(card, network, eager, rows, many)
    card.check("capture", network.graphs.failure is None, str(network.graphs.failure))
    _check_threads(card, network, engines.on_engine(modules, step))
    if card.device.type == "cuda":
        _check_memory(card, network)


def _compare(card: Card, network: GpuNetwork, eager: GpuNetwork, rows: int, steps: int) -> None:
    """Run equal steps on both; halfway, the last row leaves and an empty one takes its place."""
    vocab = network.config.vocab_size
    state, other = network.new_layers(rows), eager.new_layers(rows)
    wrong = 0
    for index in range(steps):
        ids = (torch.arange(rows) * 11 + index * 5) % vocab
        logits, state = network.step(ids, state)
        expected, other = eager.step(ids, other)
        wrong += not torch.equal(logits, expected)
        wrong += not bool(logits.isfinite().all())
        if index == steps // 2 and rows > 1:
            kept = list(range(rows - 1))
            state = state.rows(kept).joined([network.new_layers(1)])
            other = other.rows(kept).joined([eager.new_layers(1)])
    card.check(f"{rows} rows", wrong == 0, f"{wrong} of {steps} steps differ or are not finite")
    card.row(rows=rows, steps=steps, wrong=wrong)


def _check_threads(card: Card, network: GpuNetwork, second: GpuNetwork) -> None:
    """Decode in two threads on one network, and on a second network of the process."""
    ids = torch.tensor([3])

    def run(on: GpuNetwork, found: list[Tensor]) -> None:
        state = on.new_layers(1)
        for _ in range(1 if card.dry else 20):
            logits, state = on.step(ids, state)
        found.append(logits)

    results: list[Tensor] = []
    threads = [threading.Thread(target=run, args=(network, results)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run(second, results)
    same = len(results) == 3 and all(torch.equal(one, results[0]) for one in results)
    card.check("two threads and a second model", same)


def _check_memory(card: Card, network: GpuNetwork) -> None:
    """Check that memory does not grow with the number of steps."""
    step = engines.decoder(network, 8, card.device)
    used = []
    for count in (10, 990):
        for _ in range(count):
            step()
        synchronize(card)
        used.append(torch.cuda.memory_allocated(card.device))
    card.check("memory after 1,000 steps", used[1] <= used[0], f"{used[0]} then {used[1]} bytes")
