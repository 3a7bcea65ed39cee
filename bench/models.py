"""Prefill and decode speed of wkv, the `rwkv` package and llama.cpp on models of official sizes."""

import argparse
import statistics
import sys
from collections.abc import Iterator

from bench.files import GGUF, SIZES, Files, Size
from bench.serving import PROMPT
from bench.turns import Entrant, Record, Worker, grouped, ratio
from wkv.bench import Stream

FORMATS = ("fp32", "bf16", "fp16", "int8", "int4")
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1.07, "int4": 0.57}
PACKAGE = ("fp32", "bf16")
"""Formats that the `rwkv` package supports at full speed on a CPU."""

IN_GGUF = ("6", "7")
TASKS = {
    "prefill": f"prefill {PROMPT}",
    "decode": "decode",
    "dense": "no zero skip",
    "batch16": "batch 16",
    "streams16": "16 requests",
}
OVERHEAD = 6e8
"""Memory of a process in bytes, without its weights."""


def compare(args: argparse.Namespace, files: Files, stream: Stream) -> list[dict]:
    """Print a table for each size and generation, and return all results."""
    tasks = [task for task in TASKS if task in args.tasks]
    measured = []
    for size in map(SIZES.__getitem__, args.sizes):
        for generation in args.generations:
            print(f"\nRWKV-{generation} {size.name} (L{size.n_layer} D{size.n_embd}), tokens/s")
            print(line("", ["MB", *map(TASKS.__getitem__, tasks), "of memory"]), flush=True)
            entrants = list(_entrants(args, files, size, generation))
            for group in grouped(entrants, args.memory * 1e9):
                records, streams = take_turns(group, tasks, args, stream)
                _print_group(records, streams, tasks)
                measured += _facts(size, generation, records, streams)
    return measured


def skipping(args: argparse.Namespace, files: Files, stream: Stream) -> list[dict]:
    """Measure the effect of skipping zeros in wkv, with as many zeros as in trained models."""
    measured = []
    share = args.zeros
    for size in map(SIZES.__getitem__, args.sizes):
        for generation in args.generations:
            print(
                f"\nRWKV-{generation} {size.name}, {share:.0%} of the activations after the "
                "squared ReLU are zero: decode, tokens/s"
            )
            print(line("", ["MB", "skipped", "not skipped", "ratio"]), flush=True)
            path = files.pth(size, generation, share)
            for form in args.formats:
                need = needed_memory(size, generation, form)
                entrant = Entrant("wkv", form, path, generation, need)
                records, streams = take_turns([entrant], ["decode", "dense"], args, stream)
                record = records[entrant]
                skipped, read = record.speed("decode"), record.speed("dense")
                if read is None or skipped is None:
                    print(f"{entrant.name:18}{_why_not(record)}", flush=True)
                    continue
                turns = zip(record.seconds["dense"], record.seconds["decode"], strict=True)
                gain = statistics.median(b / a for b, a in turns)
                cells = [_megabytes(record), f"{skipped:.1f}", f"{read:.1f}", f"{gain:.2f}x"]
                print(line(entrant.name, cells), flush=True)
                measured += _facts(size, generation, records, streams, zeros=share)
    return measured


def take_turns(
    group: list[Entrant], tasks: list[str], args: argparse.Namespace, stream: Stream
) -> tuple[dict[Entrant, Record], list[float]]:
    """Run workers in alternation; each round measures the memory, then each task of each worker."""
    workers: dict[Entrant, Worker] = {}
    streams = []
    try:
        for entrant in group:
            _show_status(f"loading {entrant.name}")
            workers[entrant] = Worker(entrant, args.threads, args.llama_python)
        for turn in range(args.rounds + 1):
            bandwidth = stream.bytes_per_second()
            for task in tasks:
                for entrant, worker in workers.items():
                    _show_status(f"round {turn} of {args.rounds}: {entrant.name}, {task}")
                    worker.turn(task, record=turn > 0)  # the first round is a warm-up
            if turn > 0:
                streams.append(bandwidth)
    finally:
        _show_status("")
        for worker in workers.values():
            worker.close()
    return {entrant: worker.record for entrant, worker in workers.items()}, streams


def _show_status(text: str) -> None:
    """Show the current step in a terminal line that the next call overwrites."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _entrants(
    args: argparse.Namespace, files: Files, size: Size, generation: str
) -> Iterator[Entrant]:
    """Yield the combinations of engine and format to measure, in the order of the formats."""
    path = files.pth(size, generation)
    for form in args.formats:
        need = needed_memory(size, generation, form)
        if "wkv" in args.engines:
            yield Entrant("wkv", form, path, generation, need)
        if "rwkv" in args.engines and form in PACKAGE:
            yield Entrant("rwkv", form, path, generation, need)
        if "llama" in args.engines and form in GGUF and generation in IN_GGUF:
            yield Entrant("llama", form, files.gguf(size, generation, form), generation, need)


def needed_memory(size: Size, generation: str, form: str) -> float:
    """Return the approximate memory of a worker in bytes."""
    return BYTES[form] * size.weights(generation) + OVERHEAD


def _print_group(records: dict[Entrant, Record], streams: list[float], tasks: list[str]) -> None:
    """Print the speeds, and the ratios of wkv to engines with the same number of bits."""
    for entrant, record in records.items():
        if not record.seconds:
            print(f"{entrant.name:18}{_why_not(record)}", flush=True)
            continue
        share = record.share("decode", streams)
        cells = [_megabytes(record), *(_number(record.speed(task)) for task in tasks)]
        print(line(entrant.name, [*cells, "-" if share is None else f"{share:.0%}"]), flush=True)
    for entrant, record in records.items():
        for other, theirs in records.items():
            if entrant.engine == "wkv" != other.engine and _are_comparable(entrant, other):
                ratios = [ratio(record, theirs, task) for task in tasks]
                if any(ratios):
                    cells = ["", *("-" if value is None else f"{value:.2f}x" for value in ratios)]
                    print(line(f"{entrant.form} / {other.name}", cells), flush=True)
    bandwidth = statistics.median(streams) / 1e9
    print(f"memory bandwidth {bandwidth:.1f} GB/s in these rounds", flush=True)


def _are_comparable(one: Entrant, other: Entrant) -> bool:
    """Return whether two formats are compared: equal ones, and bf16 with llama.cpp's F16."""
    return one.form == other.form or (
        other.engine == "llama" and BYTES[one.form] == BYTES[other.form]
    )


def _why_not(record: Record) -> str:
    """Return the reason why there are no measurements."""
    return f"not measured: {record.facts.get('error', 'the engine does not support these tasks')}"


def _megabytes(record: Record) -> str:
    return f"{float(str(record.facts['weight_bytes'])) / 1e6:.0f}"


def _number(speed: float | None) -> str:
    return "-" if speed is None else f"{speed:.1f}"


def line(name: str, cells: list[str]) -> str:
    """Return a line of a table."""
    return f"{name:18}" + "".join(f"{cell:>12}" for cell in cells)


def _facts(
    size: Size,
    generation: str,
    records: dict[Entrant, Record],
    streams: list[float],
    zeros: float | None = None,
) -> list[dict]:
    """Return all results of a group for --json."""
    return [
        {
            "size": size.name,
            "generation": generation,
            "entrant": entrant.name,
            "form": entrant.form,
            "zeros": zeros,
            **record.facts,
            "streams": streams,
            "seconds_a_token": record.seconds,
        }
        for entrant, record in records.items()
    ]
