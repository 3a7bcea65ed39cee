"""Worker processes that are measured in alternation, and their results."""

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
        form: "fp32", "bf16", "fp16", "int8" or "int4"; for llama.cpp, the format with the same
            number of bits.
        path: the model file.
        generation: generation of the model.
        need: approximate memory in bytes.
    """

    engine: str
    form: str
    path: Path
    generation: str
    need: float

    @property
    def name(self) -> str:
        """The name in tables, with llama.cpp's own names of its formats."""
        own = self.path.suffixes[-2].strip(".") if self.engine == "llama" else self.form
        return f"{self.engine} {own}"


@dataclass
class Record:
    """The results of one worker.

    Attributes:
        facts: weight_bytes, engine and version, or error.
        seconds: seconds per token in each round, by task.
        notes: facts about the last turn of a task, by task.
    """

    facts: dict[str, object]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, dict] = field(default_factory=dict)

    def speed(self, task: str) -> float | None:
        """Return the tokens per second, the median of the rounds, or None without the task."""
        return 1 / statistics.median(self.seconds[task]) if task in self.seconds else None

    def share(self, task: str, streams: list[float]) -> float | None:
        """Return the share of the memory bandwidth in the same round, the median of the rounds."""
        if task not in self.seconds:
            return None
        read = float(str(self.facts["weight_bytes"]))
        turns = zip(self.seconds[task], streams, strict=True)
        return statistics.median(read / seconds / stream for seconds, stream in turns)


def ratio(ours: Record, theirs: Record, task: str) -> float | None:
    """Return how much faster ours is, the median of the rounds, or None if one has no result.

    Only wkv has the task `dense`. It is compared with `decode` of other engines, because they read
    all weights too.
    """
    other = "decode" if task == "dense" and task not in theirs.seconds else task
    if task not in ours.seconds or other not in theirs.seconds:
        return None
    turns = zip(ours.seconds[task], theirs.seconds[other], strict=True)
    return statistics.median(b / a for a, b in turns)


class Worker:
    """A worker process that performs a task when requested."""

    def __init__(self, entrant: Entrant, threads: int, llama_python: str | None) -> None:
        """Start the process, and wait until it has loaded or reported an error."""
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

    def turn(self, task: str, *, record: bool) -> None:
        """Perform a task once if this engine supports it, and record its duration if requested."""
        if task not in self.tasks:
            return
        assert self._process.stdin is not None
        self._process.stdin.write(task + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        if record:
            self.record.seconds.setdefault(task, []).append(answer.pop("seconds"))
            self.record.notes[task] = answer

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
    """Group entrants that run together: formats with equal bits, and others if memory suffices."""
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
