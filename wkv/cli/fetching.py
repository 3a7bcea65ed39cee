"""Downloading a model of the catalog with visible progress: a line, and a bar on a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wkv.cli.notices import notice
from wkv.hub import Entry, Report, fetch


def fetch_shown(entry: Entry) -> Path:
    """Download the file of a catalog entry, show the progress on stderr, and return its path.

    Raises:
        CatalogError: if it cannot be downloaded.
        KeyboardInterrupt: after printing how to continue.
    """
    try:
        with _shown(entry) as report:
            return fetch(entry, report)
    except KeyboardInterrupt:
        notice("interrupted; the downloaded part is saved, run the same command to continue")
        raise


def in_words(n_bytes: int) -> str:
    """Format a size as the hub does, in units of 1,000 rather than 1,024."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:,} bytes"


@contextmanager
def _shown(entry: Entry) -> Iterator[Report]:
    """Yield a progress callback that prints what is downloaded, with a bar on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    speeds = (TransferSpeedColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(
        *columns, *speeds, console=Console(stderr=True), disable=not sys.stderr.isatty()
    ) as bar:

        def report(phase: str, done: int, total: int) -> None:
            if not tasks:
                notice(f"fetching {entry.name}: {entry.file}, {in_words(total)}")
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total, completed=done)
            bar.update(tasks[phase], completed=done)

        yield report
