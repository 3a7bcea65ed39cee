"""What is said to the user beside the data."""

import sys


def notice(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
