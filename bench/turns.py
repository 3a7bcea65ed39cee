"""Workers in processes of their own that take turns, and what their turns say."""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving import MARK


@dataclass(frozen=True)
class Entrant:
    """One engine with one model in one format.

    Attributes:
        engine: "wkv", "rwkv" or "llama".
        form: "fp32", "bf16", "fp16", "int8" or "int4"; llama's of the same bits.
        path: its file.
        generation: of the model.
        need: bytes of memory, about.
    """

    engine: str
    form: str
    path: Path
    generation: str
    need: float

    @property
    def name(self) -> str:
        """As a row of a table is called; llama's formats by its own names."""
        own = self.path.suffixes[-2].strip(".") if self.engine == "llama" else self.form
        return f"{self.engine} {own}"


@dataclass
class Record:
    """What an entrant said.

    Attributes:
        facts: weight_bytes, engine and version, or error.
        seconds: of a token, by task, in each round.
    """

    facts: dict[str, object]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def speed(self, task: str) -> float | None:
        """Tokens per second, the median of the rounds; None if it did not do the task."""
        return 1 / statistics.median(self.seconds[task]) if task in self.seconds else None

    def share(self, task: str, streams: list[float]) -> float | None:
        """Of the bytes that the memory gave in the same round, the median."""
        if task not in self.seconds:
            return None
        read = float(str(self.facts["weight_bytes"]))
        turns = zip(self.seconds[task], streams, strict=True)
        return statistics.median(read / seconds / stream for seconds, stream in turns)


def ratio(ours: Record, theirs: Record, task: str) -> float | None:
    """How much faster ours is, the median of the rounds' ratios; None without both.

    Against `dense`, which only wkv has, others are taken as they decode: they read all weights.
    """
    other = "decode" if task == "dense" and task not in theirs.seconds else task
    if task not in ours.seconds or other not in theirs.seconds:
        return None
    turns = zip(ours.seconds[task], theirs.seconds[other], strict=True)
    return statistics.median(b / a for a, b in turns)


class Worker:
    """A process that takes its turn when asked."""

    def __init__(self, entrant: Entrant, threads: int, llama_python: str | None) -> None:
        """Start it and wait until it has loaded, or said why it cannot."""
        if entrant.engine == "llama":
            command = [str(llama_python), "-m", "bench.llama", str(entrant.path), str(threads)]
        else:
            command = [sys.executable, "-m", "bench.worker", entrant.engine, str(entrant.path)]
            command += [entrant.generation, entrant.form, str(threads)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._command = " ".join(command)
        facts = self._answer()
        self.tasks = set(facts.pop("tasks", ()))
        self.record = Record(facts)

    def turn(self, task: str, *, keep: bool) -> None:
        """Do a task once, if this engine can."""
        if task not in self.tasks:
            return
        assert self._process.stdin is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        seconds = self._answer()["seconds"]
        if keep:
            self.record.seconds.setdefault(task, []).append(seconds)

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
        raise RuntimeError(f"a worker died; run it by hand to see why: {self._command}")


def grouped(entrants: list[Entrant], memory: float) -> list[list[Entrant]]:
    """Entrants that run together: formats of equal bits always, others while memory lasts."""
    bits = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}
    kinds: dict[int, list[Entrant]] = {}
    for entrant in entrants:
        kinds.setdefault(bits[entrant.form], []).append(entrant)
    groups: list[list[Entrant]] = []
    for kind in kinds.values():
        together = [*groups[-1], *kind] if groups else []
        if together and sum(entrant.need for entrant in together) <= memory:
            groups[-1] = together
        else:
            groups.append(kind)
    return groups
