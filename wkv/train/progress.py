"""Show the progress of a training run: a progress bar on a terminal, otherwise lines of text."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from wkv.train.loop import Report


def describe(entry: dict[str, Any], progress: float) -> str:
    """Describe an entry of the log as a line of text."""
    losses = "  ".join(f"{source} {loss:.3f}" for source, loss in entry["loss"].items())
    seconds = entry["seconds"]
    speed = f"  {entry['tokens'] / seconds:.0f} tokens/s" if seconds else ""
    return (
        f"step {entry['step']}  {progress:.1%}  loss: {losses}  {seconds:.0f} s"
        f"  {entry['tokens'] / 1e6:.2f} M tokens{speed}  rate {entry['learning_rate']:.1e}"
    )


@contextmanager
def shown(stream: TextIO) -> Iterator[Report]:
    """Yield a `report` callback for a training run that writes to the stream."""
    if not stream.isatty():

        def write_line(entry: dict[str, Any], progress: float) -> None:
            stream.write(describe(entry, progress) + "\n")
            stream.flush()

        yield write_line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream)) as bar:
        task = bar.add_task("compiling", total=1.0)
        yield lambda entry, progress: bar.update(
            task, completed=progress, description=describe(entry, progress)
        )
