"""The section "served": the scheduler with many requests, as the server runs them."""

import statistics
import time
from itertools import pairwise

import torch

import wkv
from bench.card.report import Card
from wkv.batching import Event, Request, Scheduler, StateCache
from wkv.batching.request import TextEvent
from wkv.inference.model import Model
from wkv.inference.sampling import Sampling

REQUESTS, TOKENS, GREEDY_TOKENS = 64, 128, 64


def measure_served(card: Card) -> None:
    """Measure requests that are sampled at two values of top_p, and compare greedy text."""
    cpu = wkv.load(strategy="cpu fp32")
    if card.dry:
        model = wkv.load(strategy="cpu fp32", engine="torch")
        modules = model.network
        assert isinstance(modules, torch.nn.Module)
    else:
        model = wkv.load(strategy="cuda fp16", engine="cuda")
    card.note(f"the built-in model on {model.kernels}")
    for top_p in (0.6, 1.0):
        if card.is_late:
            card.note(f"top_p {top_p}: out of time")
            continue
        card.row(top_p=top_p, **_serve(model, top_p, 3 if card.dry else REQUESTS, card.dry))
    exact = model if card.dry else wkv.load(strategy="cuda fp32", engine="cuda")
    count = 4 if card.dry else GREEDY_TOKENS
    greedy = Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
    texts = [
        wkv.generate(one, "Alice was", sampling=greedy, max_tokens=count).text
        for one in (cpu, exact)
    ]
    card.check("greedy text equals that of the CPU", texts[0] == texts[1], repr(texts))


def _serve(model: Model, top_p: float, requests: int, dry: bool) -> dict[str, float]:
    """Run requests to their end; return tokens per second and times between tokens."""
    tokens = 4 if dry else TOKENS
    scheduler = Scheduler(model, StateCache(2**28), slots=requests, queue=requests)
    times: dict[int, list[float]] = {}

    def submit(number: int) -> None:
        def deliver(event: Event) -> None:
            if isinstance(event, TextEvent) and event.token is not None:
                times.setdefault(number, []).append(time.perf_counter())

        end = model.tokenizer.end_of_text
        sampling = Sampling(top_p=top_p, seed=number, banned=() if end is None else (end,))
        ids = tuple(model.tokenizer.encode(f"Chapter {number}. Once upon a time"))
        scheduler.submit(Request(ids=ids, sampling=sampling, max_tokens=tokens), deliver)

    for number in range(requests):
        submit(number)
    begun = time.perf_counter()
    while scheduler.step():
        pass
    seconds = time.perf_counter() - begun
    gaps = sorted(b - a for row in times.values() for a, b in pairwise(row))
    return {
        "tokens_per_s": sum(map(len, times.values())) / seconds,
        "p50_ms": 1e3 * statistics.median(gaps),
        "p99_ms": 1e3 * gaps[int(0.99 * (len(gaps) - 1))],
    }
