"""Download a model, check it and print its path. An interrupted download continues.

NAME is a name of the catalog such as g1:0.1b, a repository (OWNER/NAME), a file in one
(OWNER/NAME/FILE), or the address of either.
"""

import argparse

from wkv.cli.fetching import add_source

SUMMARY = "download a model by name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv pull` to the parser."""
    parser.add_argument(
        "name",
        metavar="NAME",
        help="name such as g1:0.1b (`wkv models` lists them), OWNER/NAME, OWNER/NAME/FILE, or an "
        "https address",
    )
    add_source(parser)


def run(args: argparse.Namespace) -> int:
    """Download one model and print its path to stdout."""
    from wkv.cli.fetching import fetch_shown
    from wkv.hub import Entry, cached, find, lookup, stored

    wanted = lookup(args.name) or find(args.name)
    here = cached(wanted) if isinstance(wanted, Entry) else stored(wanted)
    print(here or fetch_shown(wanted, args.source))
    return 0
