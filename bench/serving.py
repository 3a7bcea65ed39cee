"""A worker's side: told what to do on stdin, it answers seconds in lines of JSON.

Only the standard library is imported, so that a Python without PyTorch can run a worker too.
"""

import json
import sys
import time
from collections.abc import Callable

MARK = "#wkv-bench "
"""Begins our lines: the engines print as well."""

PROMPT = 512
"""Tokens of the prompt."""

ROWS = 16
"""Rows of the batch."""

FEWEST, MOST, SECONDS = 4, 64, 0.5
"""Steps of a turn of decoding, at least and at most, and about how long it lasts."""

Task = Callable[[], int]
"""Does something once and gives the number of tokens it did."""


def answer(**facts: object) -> None:
    """A line of JSON to whoever asked."""
    print("\n" + MARK + json.dumps(facts), flush=True)


def prompt_ids() -> list[int]:
    """Ids of the prompt."""
    return [1 + token % 200 for token in range(PROMPT)]


def repeat(step: Callable[[int], None]) -> int:
    """Decode for a while: call `step` with one id after another; gives the number of calls."""
    begun = time.perf_counter()
    for done in range(MOST):
        if done >= FEWEST and time.perf_counter() - begun > SECONDS:
            return done
        step(1 + done % 200)
    return MOST


def serve(load: Callable[[], tuple[dict[str, Task], dict[str, object]]]) -> None:
    """Load, say what was loaded or why it was not, then do tasks until stdin ends.

    Args:
        load: gives the tasks by name, and facts about the engine.
    """
    try:
        tasks, facts = load()
    except Exception as error:  # whatever an engine throws is told, and the others go on
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    answer(tasks=list(tasks), **facts)
    for line in sys.stdin:
        time.sleep(0.02)  # threads of whoever had the turn before may still spin
        begun = time.perf_counter()
        done = tasks[line.strip()]()
        answer(seconds=(time.perf_counter() - begun) / done)
