"""The section "sampler": a device samples the tokens that the host samples."""

from functools import partial

import torch

from bench.card import engines
from bench.card.report import Card
from bench.card.timing import seconds_of, synchronize
from wkv.inference.sample_batch import sample_batch
from wkv.inference.sampling import Sampler, Sampling

TURN = 0.2
"""Seconds of each measurement."""

MOST_DIFFERENT = 0.01
"""Largest share of rows whose tokens may differ, because sums are rounded in another order."""


def check_sampler(card: Card) -> None:
    """Sample the same rows on the device and on the host."""
    rows, vocab = (32, 500) if card.dry else (512, 65536)
    random = torch.Generator().manual_seed(0)
    scale = torch.rand(rows, 1, generator=random) * 6
    logits = torch.randn(rows, vocab, generator=random) * scale
    samplers = [
        Sampler(Sampling(top_p=(0.0, 0.3, 0.85, 1.0)[row % 4], temperature=row % 3, seed=row))
        for row in range(rows)
    ]
    on_device = logits.to(card.device)
    host, device = sample_batch(logits, samplers), sample_batch(on_device, samplers)
    different = sum(a != b for a, b in zip(host, device, strict=True))
    card.check("tokens", different <= MOST_DIFFERENT * rows, f"{different} of {rows} differ")
    on_device[0, 0] = torch.nan
    damaged = sample_batch(on_device[:2], samplers[:2])
    card.check("NaN is an error of its row", not isinstance(damaged[0], int))
    card.check("NaN leaves other rows alone", damaged[1] == device[1])
    if not card.dry:
        on_device[0, 0] = 0
    for count in (1, rows // 8, rows):
        first_rows = partial(sample_batch, on_device[:count], samplers[:count])
        seconds = seconds_of(card, first_rows, TURN)
        card.row(rows=count, milliseconds=1e3 * seconds)
    card.row(rows=rows, different=different)
    _check_synchronization(card)


def _check_synchronization(card: Card) -> None:
    """Check that a replayed decode step never waits for the device."""
    modules = engines.random_network(engines.TINY, torch.float32, card.device)
    step = engines.decoder(engines.on_engine(modules, engines.kernel_step(modules)), 4, card.device)
    step()
    synchronize(card)
    if card.device.type != "cuda":
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        waits = ""
    except RuntimeError as error:
        waits = str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    card.check("a decode step does not wait", not waits, waits)
