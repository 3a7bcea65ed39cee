"""Measure what a pass of several rows costs, relative to a pass of one row.

With --other, a second engine library, built from another version of the source, runs the same
models in turns with this one:

    cmake -S OTHER -B /tmp/other && cmake --build /tmp/other
    python -m bench.rows --other /tmp/other/_engine.abi3.so
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path

import torch

import wkv
from bench.files import SIZES, Files
from wkv.bench import Stream
from wkv.inference.model import Model
from wkv.native import compiled_plan, library

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 64)
FORMATS = "fp16,int8,int4"


def main() -> None:
    """Print a table for each size and format."""
    parser = argparse.ArgumentParser(prog="python -m bench.rows", description=__doc__)
    add = parser.add_argument
    add("--sizes", default="0.4B", help="sizes, of " + ", ".join(SIZES))
    add("--formats", default=FORMATS, help=f"formats (default: {FORMATS})")
    add("--zeros", type=float, default=0.88, help="share of zeros after the squared ReLU")
    add("--rounds", type=int, default=9, help="rounds after the warm-up (default: 9)")
    add("--rows", default=",".join(map(str, ROWS)), help="numbers of rows")
    add("--threads", type=int, default=os.cpu_count(), help="number of CPU threads")
    add("--files", type=Path, help="folder to store the random models in")
    add("--other", type=Path, help="another build of the native library")
    args = parser.parse_args()
    libraries = {"this": library.library()}
    if args.other:
        libraries["other"] = library.open_library(args.other.resolve())
    stream = Stream(torch.device("cpu"), args.threads)
    rows = [int(one) for one in args.rows.split(",")]
    print(f"{'ms at 1 row; rows / 1 row':36}" + "".join(f"{count:>7}" for count in rows))
    with tempfile.TemporaryDirectory() as temporary:
        files = Files(args.files or Path(temporary), None)
        for size in args.sizes.split(","):
            path = files.pth(SIZES[size], "7", args.zeros)
            for form in args.formats.split(","):

                def load(path: Path = path, form: str = form) -> Model:
                    return wkv.load(path, f"cpu {form}", threads=args.threads, engine="native")

                times, bandwidth = measure(load, libraries, rows, args.rounds, stream)
                _print(f"{size} {form}", times, bandwidth, rows)


def measure(
    load: Callable[[], Model],
    libraries: dict[str, CDLL],
    rows: list[int],
    rounds: int,
    stream: Stream,
) -> tuple[dict[str, dict[int, list[float]]], float]:
    """Return the seconds of each pass by library and number of rows, and the bandwidth."""
    models = {}
    for name, one in libraries.items():
        with _library(one):
            models[name] = load()
    states = {name: model.forward(range(1, 33))[1] for name, model in models.items()}
    times = {name: {count: [] for count in rows} for name in models}
    speeds = []
    generator = torch.Generator().manual_seed(0)
    vocab = next(iter(models.values())).config.vocab_size
    for turn in range(rounds + 1):
        speeds.append(stream.bytes_per_second())
        for count in rows:
            ids = torch.randint(0, vocab, (1, count), generator=generator)
            # Who comes second finds some weights in the cache.
            for name, model in list(models.items())[:: 1 if turn % 2 else -1]:
                begun = time.perf_counter()
                model.forward(ids, states[name], all_logits=True)
                if turn:
                    times[name][count].append(time.perf_counter() - begun)
    return times, statistics.median(speeds)


@contextmanager
def _library(one: CDLL) -> Iterator[None]:
    """Let models that are loaded use a library."""
    before = compiled_plan.library
    compiled_plan.library = lambda: one
    try:
        yield
    finally:
        compiled_plan.library = before


def _print(
    title: str, times: dict[str, dict[int, list[float]]], bandwidth: float, rows: list[int]
) -> None:
    for name, found in times.items():
        one = statistics.median(found[rows[0]])
        head = f"{title} {name}, {bandwidth / 1e9:.0f} GB/s: {1e3 * one:.2f}"
        cells = [f"{statistics.median(found[count]) / one:7.2f}" for count in rows]
        print(f"{head:36}" + "".join(cells), flush=True)
    if "other" in times:
        cells = []
        for count in rows:
            pairs = zip(times["this"][count], times["other"][count], strict=True)
            cells.append(f"{statistics.median(a / b for a, b in pairs):7.2f}")
        print(f"{title + ': this / other':36}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
