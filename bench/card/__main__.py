"""Check and measure the GPU engine on this machine's card; write DIR/card.json."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.card.report import Card, table
from tests.checkpoints import GENERATIONS

SECONDS, DRY_SECONDS = 340, 1200
"""The limit of a whole run; a dry run takes two minutes, and longer on a busy machine."""


def main(arguments: list[str] | None = None) -> int:
    """Run the sections in the order of their worth; return 1 if a check failed."""
    options = _parser().parse_args(arguments)
    if options.dry:
        from tests.gpu.interpreter import interpreted

        with interpreted():
            return _run(options)
    if not torch.cuda.is_available():
        print("PyTorch finds no CUDA device; --dry runs the checks on a CPU")
        return 1
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    """Run the sections."""
    options.out.mkdir(parents=True, exist_ok=True)
    card = Card(
        folder=options.out,
        device=torch.device("cpu" if options.dry else "cuda"),
        dry=options.dry,
        seconds=options.seconds or (DRY_SECONDS if options.dry else SECONDS),
        generations=options.generations,
    )
    timer = card.watch()
    for name, (seconds, run) in _sections().items():
        if not options.only or name in options.only:
            card.section(name, seconds, run)
    timer.cancel()
    return _end(card)


def _sections() -> dict[str, tuple[float, Callable[[Card], None]]]:
    """Return the sections and their seconds; they import kernels, so Triton must be set up."""
    from bench.card.breakdown import measure_breakdown
    from bench.card.graphs import check_graphs
    from bench.card.parity import check_parity
    from bench.card.rivals import measure_rivals
    from bench.card.sampling import check_sampler
    from bench.card.served import measure_served
    from bench.card.speed import measure_speed
    from bench.card.timing import measure_card

    return {
        "card": (10, measure_card),
        "parity": (60, check_parity),
        "graphs": (25, check_graphs),
        "sampler": (15, check_sampler),
        "speed": (110, measure_speed),
        "rivals": (25, measure_rivals),
        "breakdown": (25, measure_breakdown),
        "served": (30, measure_served),
    }


def _end(card: Card) -> int:
    """Print the speeds next to eager ones, and the checks that failed."""
    print("\n== end")
    rows = card.results.get("speed", {}).get("rows", [])
    eager = {row["task"]: row["tokens_per_s"] for row in rows if row["engine"] == "eager"}
    table(
        [("task", "engine", "tokens/s", "share of R", "x eager")] * bool(rows)
        + [
            (
                row["task"],
                row["engine"],
                row["tokens_per_s"],
                row["share_of_R"],
                row["tokens_per_s"] / eager.get(row["task"], float("nan")),
            )
            for row in rows
        ]
    )
    checks = sum(section.get("checks", 0) for section in card.results.values())
    card.write()
    print(f"{checks} checks, {len(card.failures)} failed; results in {card.folder / 'card.json'}")
    for failure in card.failures:
        print(f"FAILED {failure}")
    return int(bool(card.failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.card", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for card.json")
    add("--dry", action="store_true", help="run tiny models on the CPU, without graphs")
    add("--only", nargs="+", metavar="SECTION", help="sections to run (default: all)")
    every = " ".join(GENERATIONS)
    help = f"generations of the section parity (default: {every})"
    add("--generations", nargs="+", choices=GENERATIONS, default=GENERATIONS, help=help)
    add("--seconds", type=float, help=f"limit of the run (default: {SECONDS})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
