"""Download a model by name, check it and print its path. An interrupted download continues."""

import argparse

SUMMARY = "download a model by name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv pull` to the parser."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="name such as g1:0.1b, or the name of a model file (`wkv models` lists them)",
    )


def run(args: argparse.Namespace) -> int:
    """Download one model and print its path to stdout."""
    from wkv.cli.fetching import fetch_shown
    from wkv.hub import cached, find

    entry = find(args.name)
    print(cached(entry) or fetch_shown(entry))
    return 0
