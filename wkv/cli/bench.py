"""Measure how fast a model reads and writes text, and compare it with the memory bandwidth.

Reading a prompt is called prefill; generating one token after the other is called decode.
"""

import argparse
import json
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wkv.cli.notices import notice, slow_step
from wkv.cli.options import add_model, add_speculation, load_model, load_speculation
from wkv.version import __version__

if TYPE_CHECKING:
    from wkv.bench import DraftResult, Measured, Result, Stream
    from wkv.inference.model import Model

SUMMARY = "measure the speed of a model on this machine"

ROUNDS, QUICK = 7, 3
"""Number of rounds by default and with --quick."""

HEADINGS = ("", "tokens/s", "ms/step", "MB/token", "GB/s", "of limit", "GFLOP/s")
WIDTHS = (22, 10, 10, 10, 8, 10, 10)

TOPIC, WIDTH = 11, 80
"""Widths, in columns, of the label before a fact and of the whole line."""

IN_CACHE = 2**26
"""Models with fewer bytes of weights may fit in the CPU cache and exceed the memory limit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv bench` to the parser."""
    add_model(parser)
    add_speculation(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object with every measurement"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="also save a roofline plot as a .png, .svg or .pdf file"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"measure {QUICK} rounds instead of {ROUNDS}"
    )


def run(args: argparse.Namespace) -> int:
    """Measure the model and print the results."""
    picture = None
    if args.plot is not None:  # report a wrong file name before spending minutes on measuring
        from wkv.bench.roofline import picture_path

        picture = picture_path(args.plot)
    model = load_model(args)
    speculation = load_speculation(args, model)

    from wkv.bench import measure, measure_drafts, plan, stream_for, texts_for
    from wkv.bench.report import report_of
    from wkv.cli.machine import memory_bytes

    stream = stream_for(model, memory_bytes()[1])
    tasks, rounds = plan(model), QUICK if args.quick else ROUNDS
    with _progress(rounds, len(tasks) + 1) as on_turn:
        measured = measure(model, stream, tasks, rounds=rounds, on_turn=on_turn)
    drafts: tuple[DraftResult, ...] = ()
    if speculation is not None:
        speed = measured.results[0].tokens_per_second
        texts = texts_for(model, speed, with_model=args.draft is not None)
        with slow_step("measuring speculative decoding"):
            drafts = measure_drafts(model, texts, speculation, rounds=rounds)
    if args.json:
        print(json.dumps(report_of(model, stream, measured, drafts) | _machine()))
    else:
        for topic, text in _facts(model, stream, measured).items():
            lines = textwrap.wrap(
                text, WIDTH - TOPIC, break_long_words=False, break_on_hyphens=False
            )
            print(f"{topic:<{TOPIC}}" + f"\n{' ' * TOPIC}".join(lines))
        _print_table(measured.results)
        _print_drafts(drafts)
    if picture is not None:
        from wkv.bench.roofline import draw

        draw(measured, picture, title=_title(model), subtitle=_subtitle(model, measured))
        notice(f"plot saved to {picture}")
    return 0


def _facts(model: "Model", stream: "Stream", measured: "Measured") -> dict[str, str]:
    """Return the facts that are printed above the table: label to text."""
    from wkv.bench.engine_info import why
    from wkv.cli.fetching import in_words
    from wkv.cli.machine import processor

    reason = f" ({model.strategy.reason})" if model.strategy.reason else ""
    is_small = measured.costs.weight_bytes < IN_CACHE
    limit = "Limit = bandwidth / bytes per token."
    limit += " This model fits in the CPU cache, so it can exceed the limit." if is_small else ""
    weights, state = in_words(measured.costs.weight_bytes), in_words(measured.costs.state_bytes)
    return {
        "model": repr(model).strip("<>"),
        "strategy": f"{model.strategy}{reason}",
        "engine": f"{model.engine}, kernels {model.kernels}, threads {model.threads}",
        "why": why(model),
        "processor": processor().found,
        "memory": f"{measured.stream / 1e9:.1f} GB/s, {in_words(stream.n_bytes)} {stream.how}",
        "one token": f"reads {weights} of weights; the state has {state}",
        "limit": limit,
        "measured": f"medians of {len(measured.streams)} rounds, alternating with memory reads; "
        f"text: {measured.text}",
    }


def _print_table(results: "tuple[Result, ...]") -> None:
    """Print the results: a styled table on a terminal, plain columns elsewhere."""
    rows = [_cells(result) for result in results]
    if not sys.stdout.isatty():
        print()
        for row in (HEADINGS, *rows):
            first, *others = zip(row, WIDTHS, strict=True)
            cells = f"{first[0]:<{first[1]}}" + "".join(f"{cell:>{w}}" for cell, w in others)
            print(cells.rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        style = "bold" if heading == HEADINGS[1] else None
        table.add_column(heading, justify="right" if number else "left", style=style)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_drafts(drafts: "tuple[DraftResult, ...]") -> None:
    """Print the speed of speculative decoding, relative to plain decoding."""
    if drafts:
        print("\nspeculative decoding, compared with plain decoding of the same text")
    for result in drafts:
        share = f"{result.accepted} of {result.drafted} drafts accepted"
        print(
            f"{result.text:<28}{result.speed:>6.2f}x{result.tokens_per_second:>11,.1f} tokens/s"
            f"{result.tokens_per_pass:>8.2f} tokens per pass, {share}"
        )


def _cells(result: "Result") -> tuple[str, ...]:
    """Return one row of the table. Memory does not limit prefill, so its share is left empty."""
    task, speed = result.task, result.tokens_per_second
    memory_cells = (
        f"{result.bytes_per_token / 1e6:,.1f}",
        f"{result.bytes_per_second / 1e9:.1f}",
        f"{result.share:.0%}",
    )
    return (
        task.name if task.skip_zeros else "  without zero skip",
        f"{speed:,.1f}" if speed < 1000 else f"{speed:,.0f}",
        f"{1000 * task.all_tokens / speed:,.2f}",
        *(memory_cells if task.kind == "decode" else ("-", "-", "-")),
        f"{speed * result.bytes_per_token * result.operations_per_byte / 1e9:,.1f}",
    )


def _machine() -> dict[str, object]:
    """Return the facts about the machine and the software versions for --json."""
    import torch

    from wkv.cli.machine import memory_bytes, processor

    total, free = memory_bytes()
    return {
        "machine": {
            "processor": processor().found,
            "cores": os.cpu_count(),
            "memory_bytes": total,
            "free_bytes": free,
            "system": platform.platform(),
        },
        "versions": {
            "wkv": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _title(model: "Model") -> str:
    """Return the title of the plot: the model and its strategy."""
    config = model.config
    return (
        f"{model.path.name} (RWKV-{config.generation}, {config.n_layer} layers of "
        f"{config.n_embd}), {model.strategy}"
    )


def _subtitle(model: "Model", measured: "Measured") -> str:
    """Return the subtitle of the plot: the machine and the measurement method."""
    from wkv.cli.machine import processor

    return (
        f"{processor().found.split(' (')[0]}, threads {model.threads}, engine {model.engine} "
        f"({model.kernels}), medians of {len(measured.streams)} rounds"
    )


@contextmanager
def _progress(rounds: int, turns: int) -> Iterator[Callable[[str], None]]:
    """Yield a function to call before each task; it shows a bar, or a line per round in a pipe."""
    if not sys.stderr.isatty():
        started = 0

        def report(name: str) -> None:
            nonlocal started
            if started % turns == 0:
                number = started // turns
                notice(f"round {number} of {rounds}" if number else "warming up")
            started += 1

        yield report
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task("loading", total=(rounds + 1) * turns + 1)
        yield lambda name: bar.update(task, advance=1, description=name)
