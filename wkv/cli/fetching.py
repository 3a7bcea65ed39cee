"""Downloading a model with visible progress: a line for each file, and a bar on a terminal."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wkv.cli.notices import notice
from wkv.hub import SOURCES, Address, Entry, Remote, Repository, fetch, fetch_repository


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses where models are downloaded from."""
    parser.add_argument(
        "--source",
        choices=("auto", *SOURCES),
        help="where to download from; auto tries them in this order (default: the environment "
        "variable WKV_HUB, otherwise auto)",
    )


def fetch_shown(wanted: Entry | Repository | Address, source: str | None = None) -> Path:
    """Download a model, show the progress on stderr, and return its path.

    Args:
        wanted: an entry of the catalog, a repository, a file in it, or an address.
        source: where to download from; None: WKV_HUB in the environment, otherwise "auto".

    Raises:
        CatalogError: if it cannot be downloaded.
        KeyboardInterrupt: after printing how to continue.
    """
    chosen = source or os.environ.get("WKV_HUB") or "auto"
    try:
        if isinstance(wanted, Entry):
            shown = _Shown(f"{wanted.name}: {wanted.file}")
            with shown.progress():
                return fetch(wanted, shown.report, source=chosen, on_source=shown.begin)
        shown = _Shown(str(wanted))

        def begin(remote: Remote) -> None:
            shown.name = remote.path
            shown.begin(remote.url.partition("//")[2].partition("/")[0])

        with shown.progress():
            return fetch_repository(wanted, shown.report, source=chosen, on_file=begin)
    except KeyboardInterrupt:
        notice("interrupted; the downloaded part is saved, run the same command to continue")
        raise


def in_words(n_bytes: int) -> str:
    """Format a size as the hub does, in units of 1,000 rather than 1,024."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes:,} bytes"


class _Shown:
    """Prints what is downloaded and from where, with a bar on a terminal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._source = ""
        self._is_new = True
        self._tasks: dict[str, Any] = {}
        self._bar: Any = None

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show the bar while files are downloaded."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
        speeds = (TransferSpeedColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with Progress(
            *columns, *speeds, console=console, disable=not sys.stderr.isatty()
        ) as self._bar:
            yield

    def begin(self, source: str) -> None:
        """Begin another file, from an address."""
        self._source, self._is_new = source, True
        self._tasks.clear()

    def report(self, phase: str, done: int, total: int) -> None:
        """Show the progress; see `wkv.hub.transfer.Report`."""
        if self._is_new:
            size = in_words(total) if total else "size unknown"
            notice(f"fetching {self.name}, {size}, from {self._source}")
            self._is_new = False
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total or None, completed=done)
        self._bar.update(self._tasks[phase], completed=done)
