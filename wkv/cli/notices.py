"""Messages for the user on stderr, separate from the data on stdout."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

SLOW = 2.0
"""Seconds after which a user is shown what the program is doing."""


def notice(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def slow_step(text: str) -> Iterator[None]:
    """Show what is being done if it takes longer than SLOW seconds.

    A terminal shows the text and the elapsed time until the step ends; a pipe gets one line.
    """
    bar = _bar(text) if sys.stderr.isatty() else None
    timer = Timer(SLOW, bar.start if bar else lambda: notice(f"{text} ..."))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # otherwise the bar could start after it was stopped
        if bar is not None:
            bar.stop()


def _bar(text: str) -> "Progress":
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(text, total=None)
    return bar
