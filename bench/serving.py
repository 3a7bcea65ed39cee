"""The worker side of the protocol: tasks are read from stdin, and durations written as JSON lines.

Only the standard library is imported, so that a Python without PyTorch can also run a worker.
"""

import json
import sys
import time
from collections.abc import Callable

MARK = "#wkv-bench "
"""Prefix of the worker's lines, because the engines also print to stdout."""

PROMPT = 512
"""Number of tokens of the prompt."""

ROWS = 16
"""Number of rows of the batch."""

FEWEST, MOST, SECONDS = 4, 64, 0.5
"""Minimum and maximum number of steps of a decoding measurement, and its approximate duration."""

Task = Callable[[], "int | tuple[int, dict[str, object]]"]
"""A function that performs a task once and returns the number of processed tokens.

Facts about the turn may follow the number.
"""


def answer(**facts: object) -> None:
    """Write a JSON line to the parent process."""
    print("\n" + MARK + json.dumps(facts), flush=True)


def prompt_ids() -> list[int]:
    """Return the token ids of the prompt."""
    return [1 + token % 200 for token in range(PROMPT)]


def repeat(step: Callable[[int], None]) -> int:
    """Call `step` with one id after another for SECONDS, and return the number of calls."""
    begun = time.perf_counter()
    for done in range(MOST):
        if done >= FEWEST and time.perf_counter() - begun > SECONDS:
            return done
        step(1 + done % 200)
    return MOST


def serve(load: Callable[[], tuple[dict[str, Task], dict[str, object]]]) -> None:
    """Load an engine, report the result, and then perform tasks until stdin ends.

    Args:
        load: returns the tasks by name, and facts about the engine.
    """
    try:
        tasks, facts = load()
    except Exception as error:  # report any error of the engine, so that the others can continue
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    answer(tasks=list(tasks), **facts)
    for line in sys.stdin:
        time.sleep(0.02)  # the threads of the previous worker may still spin-wait
        begun = time.perf_counter()
        done = tasks[line.strip()]()
        seconds = time.perf_counter() - begun
        count, facts = done if isinstance(done, tuple) else (done, {})
        answer(seconds=seconds / count, **facts)
