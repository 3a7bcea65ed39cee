"""Fetching a model of the catalog in view of the user: a line, and a bar on a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wkv.cli.notices import notice
from wkv.hub import Entry, Report, fetch


def fetch_shown(entry: Entry) -> Path:
    """The file of an entry, fetched with its progress on stderr.

    Raises:
        CatalogError: if it cannot be had.
        KeyboardInterrupt: after a line that says how to go on.
    """
    try:
        with _shown(entry) as report:
            return fetch(entry, report)
    except KeyboardInterrupt:
        notice("interrupted; what came so far is kept, and the same command goes on from there")
        raise


def in_words(n_bytes: int) -> str:
    """A size as the hub writes it: thousands, not powers of two."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:,} bytes"


@contextmanager
def _shown(entry: Entry) -> Iterator[Report]:
    """A report that says what comes, and on a terminal draws a bar below it."""
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

        def report(what: str, done: int, total: int) -> None:
            if not tasks:
                notice(f"fetching {entry.name}: {entry.file}, {in_words(total)}")
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, completed=done)
            bar.update(tasks[what], completed=done)

        yield report
