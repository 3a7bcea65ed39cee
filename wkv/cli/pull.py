"""Fetch a model of the catalog, check it, and print where it is. Goes on where it was cut off."""

import argparse

SUMMARY = "fetch a model of the catalog"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv pull`."""
    parser.add_argument(
        "name", metavar="NAME", help="such as g1:0.1b, or a file's own name; see `wkv models`"
    )


def run(args: argparse.Namespace) -> int:
    """Fetch one model; its path goes to stdout."""
    from wkv.cli.fetching import fetch_shown
    from wkv.hub import cached, find

    entry = find(args.name)
    print(cached(entry) or fetch_shown(entry))
    return 0
