"""List the models that can be downloaded by name, with their size and the memory they need."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wkv.hub import Entry

SUMMARY = "list the models that can be downloaded by name"

COLUMNS = "{:<14}  {:<4}  {:>8}  {:>8}  {:>8}  {:>8}  {:<9}  {}"
HEADINGS = ("name", "RWKV", "file", "in bf16", "in fp32", "context", "languages", "local")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv models` to the parser."""
    parser.add_argument(
        "family", nargs="?", metavar="FAMILY", help="list only this family, such as g1"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list with everything that is known about each model",
    )


def run(args: argparse.Namespace) -> int:
    """Print the models of the catalog."""
    from wkv.hub import cached

    listed = [(entry, cached(entry)) for entry in _selected(args.family)]
    if args.json:
        print(json.dumps([_facts(entry, path) for entry, path in listed], indent=1))
        return 0
    print(COLUMNS.format(*HEADINGS))
    for entry, path in listed:
        print(_line(entry, path))
    if sys.stdout.isatty():
        from wkv.cli.notices import notice

        notice("\nwkv pull NAME downloads a model (in bf16, in fp32: the memory it requires)")
    return 0


def _selected(family: str | None) -> list["Entry"]:
    """Return the catalog entries of a family, or all entries.

    Raises:
        CatalogError: if the family does not exist.
    """
    from wkv.hub import entries, find

    if family is None:
        return list(entries())
    wanted = family.lower().rstrip(":")
    return [entry for entry in entries() if entry.family == wanted] or [find(family)]


def _line(entry: "Entry", path: Path | None) -> str:
    from wkv.cli.fetching import in_words

    return COLUMNS.format(
        entry.name,
        entry.generation,
        in_words(entry.disk_bytes),
        in_words(entry.memory_bytes(2)),
        in_words(entry.memory_bytes(4)),
        entry.context,
        entry.languages,
        "yes" if path else "-",
    )


def _facts(entry: "Entry", path: Path | None) -> dict[str, object]:
    memory = {"bf16": entry.memory_bytes(2), "fp32": entry.memory_bytes(4)}
    return {
        **asdict(entry),
        "family": entry.family,
        "memory_bytes": memory,
        "page": entry.page,
        "url": entry.url,
        "path": str(path) if path else None,
    }
