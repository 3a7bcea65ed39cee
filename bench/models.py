"""Prefill of 512 tokens and decode of random 0.1B-size models, beside the `rwkv` package."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.checkpoints import random_checkpoint

MARK = "#wkv-bench "
THREADS = 2
ROUNDS = 5
SIZE = {"n_layer": 12, "n_embd": 768, "head_size": 64, "vocab_size": 65536}
GENERATIONS = ("7", "6", "5.2", "4")
DTYPES = ("fp32", "bf16")


class Worker:
    """A process of `bench.worker` that takes its turn when asked."""

    def __init__(self, engine: str, path: Path, generation: str, dtype: str) -> None:
        self.engine = engine
        command = [sys.executable, "-m", "bench.worker", engine, str(path), generation, dtype]
        self._process = subprocess.Popen(
            [*command, str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()

    def seconds(self, task: str) -> float:
        """Seconds per token of one run of a task."""
        assert self._process.stdin is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise RuntimeError(f"the {self.engine} worker died; run bench.worker by hand to see why")


def compare(path: Path, generation: str, dtype: str) -> dict[str, dict[str, float]]:
    """Median tokens per second of each engine and task, and the median ratio of the turns."""
    workers = [Worker(engine, path, generation, dtype) for engine in ("wkv", "rwkv")]
    results = {}
    for task in ("prefill", "decode"):
        times: list[list[float]] = [[], []]
        for turn in range(ROUNDS + 1):
            for place, worker in enumerate(workers):
                seconds = worker.seconds(task)
                if turn > 0:  # the first is a warm-up
                    times[place].append(seconds)
        ours, theirs = (1 / statistics.median(column) for column in times)
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        results[task] = {"wkv": ours, "rwkv": theirs, "ratio": ratio}
    for worker in workers:
        worker.close()
    return results


def main(generations: tuple[str, ...] = GENERATIONS, dtypes: tuple[str, ...] = DTYPES) -> None:
    """Print a row for each generation and dtype."""
    print(f"0.1B size (L12 D768 V65536), {THREADS} threads, medians of {ROUNDS} rounds in turn")
    print(f"{'':10}{'prefill 512, tok/s':^30}{'decode, tok/s':^30}")
    print(f"{'':10}" + f"{'wkv':>9}{'rwkv':>9}{'ratio':>9}   " * 2)
    with tempfile.TemporaryDirectory() as folder:
        for generation in generations:
            path = Path(folder) / f"rwkv-{generation}.pth"
            torch.save(random_checkpoint(generation, **SIZE), path)
            for dtype in dtypes:
                row = f"{generation + ' ' + dtype:10}"
                for figures in compare(path, generation, dtype).values():
                    row += f"{figures['wkv']:9.1f}{figures['rwkv']:9.1f}{figures['ratio']:8.2f}x   "
                print(row, flush=True)
            path.unlink()


if __name__ == "__main__":
    main(*(tuple(argument.split(",")) for argument in sys.argv[1:]))
