"""Remove a downloaded model from this machine. Files that you put somewhere yourself are kept."""

import argparse

SUMMARY = "remove a downloaded model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv rm` to the parser."""
    parser.add_argument(
        "name", metavar="NAME", help="a name that `wkv models --here` lists, or an address"
    )


def run(args: argparse.Namespace) -> int:
    """Remove one model, and print the path that is gone."""
    from wkv.cli.fetching import in_words
    from wkv.cli.notices import notice
    from wkv.hub import remove

    path, n_bytes = remove(args.name)
    print(path)
    notice(f"removed; {in_words(n_bytes)} are free now")
    return 0
