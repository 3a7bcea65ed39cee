"""List the models that can be downloaded by name, or those on this machine.

Sizes are those of the file and of the weights in memory. Any other repository of a hub can be
downloaded too: `wkv pull OWNER/NAME`.
"""

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
        "--here",
        action="store_true",
        help="list what was downloaded to this machine, with paths and sizes",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON list with everything that is known about each model",
    )


def run(args: argparse.Namespace) -> int:
    """Print the models of the catalog, or those on this machine."""
    if args.here:
        if args.family is not None:
            args.usage_error("--here lists all models; leave FAMILY out")
        return _print_local(as_json=args.json)
    from wkv.hub import cached, recommended
    from wkv.models.strategy.choose import memory_bytes

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
        best = recommended(memory_bytes())
        if best is not None:
            notice(f"recommended for the memory of this machine: {best.name}")
    return 0


def _print_local(*, as_json: bool) -> int:
    """Print the downloaded models."""
    from wkv.cli.fetching import in_words
    from wkv.cli.notices import notice
    from wkv.hub import local_models

    models = local_models()
    if as_json:
        print(
            json.dumps([{**asdict(model), "path": str(model.path)} for model in models], indent=1)
        )
        return 0
    width = max((len(model.name) for model in models), default=0)
    for model in models:
        part = "" if model.is_complete else "  (interrupted; `wkv pull` continues)"
        print(f"{model.name:<{width}}  {in_words(model.n_bytes):>8}  {model.path}{part}")
    total = sum(model.n_bytes for model in models)
    notice(f"{len(models)} models, {in_words(total)}; `wkv rm NAME` removes one")
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
