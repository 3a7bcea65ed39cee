"""The section "rivals": the recurrence of `flash-linear-attention`, if it is installed."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from bench.card.report import Card
from bench.card.timing import seconds_of

TURN = 0.2
"""Seconds of each measurement."""

LIMIT = 2e-3
"""Largest error of the recurrence relative to its largest output."""


def measure_rivals(card: Card) -> None:
    """Compare the recurrence for one token of many rows, and for prompts."""
    from wkv.gpu.recurrences import wkv7
    from wkv.ops.wkv7 import wkv7_recurrent

    heads, size = (2, 16) if card.dry else (32, 64)
    rival = _fla() if card.device.type == "cuda" else None
    if rival is None:
        card.note("flash-linear-attention is not installed: pip install fla-core")
    for rows, tokens in ((2, 1), (1, 4)) if card.dry else ((64, 1), (320, 1), (1, 512), (8, 512)):
        inputs = _inputs(rows, tokens, heads, size, card.device)
        y, _ = wkv7(*inputs)
        expected, _ = wkv7_recurrent(*(x.double() for x in inputs))
        error = ((y - expected).abs().max() / expected.abs().max()).item()
        card.check(f"recurrence {rows} x {tokens}", error < LIMIT, f"error {error:.1e}")
        values = {"wkv_us": 1e6 * seconds_of(card, lambda i=inputs: wkv7(*i), TURN)}
        if rival is not None:
            found = rival(inputs)[0]
            error = ((found - expected).abs().max() / expected.abs().max()).item()
            values["fla_us"] = 1e6 * seconds_of(card, lambda i=inputs: rival(i), TURN)
            values["fla_error"] = error
        card.row(rows=rows, tokens=tokens, **values)


def _fla() -> Callable[[list[Tensor]], Any] | None:
    """Return a function that computes the recurrence with fla, whose states are (key, value)."""
    if find_spec("fla") is None:
        return None
    from fla.ops.rwkv7 import chunk_rwkv7, fused_mul_recurrent_rwkv7

    def run(inputs: list[Tensor]) -> Any:
        r, w, k, v, a, b, state = inputs
        form = fused_mul_recurrent_rwkv7 if r.shape[1] == 1 else chunk_rwkv7
        return form(
            r,
            w,
            k,
            v,
            a,
            b,
            scale=1.0,
            initial_state=state.mT.contiguous(),
            output_final_state=True,
        )

    return run


def _inputs(rows: int, tokens: int, heads: int, size: int, device: torch.device) -> list[Tensor]:
    """Return receptance, log decay, key, value, a, b and the state, float32."""
    random = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device)

    r, w, k, v, kappa, rate = (normal(rows, tokens, heads, size) for _ in range(6))
    kappa = torch.nn.functional.normalize(kappa, dim=-1)
    log_decay = -0.6065306597126334 * torch.sigmoid(w)
    state = normal(rows, heads, size, size)
    return [r, log_decay, k / size**0.5, v, -kappa, kappa * torch.sigmoid(rate), state]
