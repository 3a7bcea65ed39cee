"""Messages for the user on stderr, separate from the data on stdout."""

import sys


def notice(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)
