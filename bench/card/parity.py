"""The section "parity": every generation, dtype and engine gives the numbers of the CPU."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

import wkv
from bench.card import engines
from bench.card.report import Card
from tests.checkpoints import random_checkpoint, save_pth
from wkv.gpu.network import GpuNetwork
from wkv.inference.model import Model

LIMITS = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.1}
"""Root mean square error of logits, whose deviation is about 1, as in tests/unit/test_cuda.py."""

ALONE_LIMIT = 1e-4
"""Largest difference of a row alone and in a batch, in fp32."""

STRATEGIES = ("cuda fp16 *1 -> cpu fp32", "cuda fp16 *1+", "cuda fp16i8")


def check_parity(card: Card) -> None:
    """Compare all generations with the CPU in fp32, then some other strategies."""
    sizes = {"n_layer": 2, "n_embd": 96, "vocab_size": 90} if card.dry else {}
    dtypes = ("fp32",) if card.dry else tuple(LIMITS)
    with TemporaryDirectory() as folder:
        for generation in card.generations:
            path = Path(folder) / f"{generation}.pth"
            save_pth(random_checkpoint(generation, **sizes), path)
            cpu = wkv.load(path, "cpu fp32")
            for dtype in dtypes:
                for engine in ("torch", "cuda"):
                    if card.is_late:
                        card.check(f"{generation} {dtype} {engine}", False, "out of time")
                        continue
                    model = engines.load(path, dtype, engine, card.device)
                    if isinstance(model.network, GpuNetwork):
                        engines.poison(model.network)
                    name = f"{generation} {dtype} {engine}"
                    error = _compare(card, name, model, cpu, dtype, Path(folder))
                    card.row(model=name, rms_error=error, kernels=model.kernels)
            if card.device.type == "cuda" and generation in ("4", "6", "7"):
                _check_strategies(card, path, cpu, generation)


def _compare(card: Card, name: str, model: Model, cpu: Model, dtype: str, folder: Path) -> float:
    """Check a model against the CPU; return the largest error of its logits."""
    limit, worst = LIMITS[dtype], 0.0
    long, short, half, steps = (7, 4, 3, 2) if card.dry else (70, 31, 40, 8)
    ids = torch.randint(0, 90, (2, long), generator=torch.Generator().manual_seed(0))

    def equal(what: str, found: Tensor, expected: Tensor, most: float = limit) -> None:
        nonlocal worst
        error = rms(found, expected)
        worst = max(worst, error)
        card.check(f"{name}, {what}", error <= most, f"error {error:.2e}, limit {most:.0e}")

    expected, old = cpu.forward(ids, lengths=[long, short])
    logits, state = model.forward(ids, lengths=[long, short])
    equal("ragged prompts", logits, expected)
    kept = state.clone()
    token = torch.tensor([[5], [6]])
    expected_next, _ = cpu.forward(token, old)
    following, _ = model.forward(token, state)
    equal("decode", following, expected_next)
    equal("a state of the CPU", model.forward(token, old)[0], expected_next)
    same = zip(state.layers, kept.layers, strict=True)
    is_same = all(torch.equal(a.wkv, b.wkv) for a, b in same)
    card.check(f"{name}, the input state is unchanged", is_same)
    state.save(folder / "state")
    loaded = wkv.State.load(folder / "state", model)
    equal("a saved state", model.forward(token, loaded)[0], following, 1e-6)

    expected, _ = cpu.forward(ids[0], all_logits=True)
    equal("all logits", model.forward(ids[0], all_logits=True)[0], expected)
    _, first = model.forward(ids[0, :half])
    rest, state = model.forward(ids[0, half:], first)
    equal("a split prompt", rest, expected[-1])
    for index in range(steps):
        rest, state = model.forward([index], state)
    whole, _ = cpu.forward([*ids[0].tolist(), *range(steps)])
    equal("one token at a time", rest, whole)
    together, _ = model.forward(torch.arange(5)[:, None])
    alone = torch.stack([model.forward([row])[0] for row in (0, 4)])
    difference = (together[[0, 4]] - alone).abs().max().item()
    most = ALONE_LIMIT if dtype == "fp32" else 8 * limit
    card.check(f"{name}, a row alone", difference <= most, f"difference {difference:.2e}")
    return worst


def _check_strategies(card: Card, path: Path, cpu: Model, generation: str) -> None:
    """Check strategies that run on PyTorch's modules."""
    ids = [1, 2, 3, 4, 5]
    expected, _ = cpu.forward(ids)
    for strategy in STRATEGIES:
        error = rms(wkv.load(path, strategy).forward(ids)[0], expected)
        limit = 0.1 if "i8" in strategy else LIMITS["fp16"]
        card.check(f"{generation} {strategy}", error <= limit, f"error {error:.2e}")
        card.row(model=f"{generation} {strategy}", rms_error=error)


def rms(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference."""
    return (found.cpu() - expected.cpu()).square().mean().sqrt().item()
