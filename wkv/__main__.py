"""Entry point of `python -m wkv`, which is the same as the command `wkv`."""

import sys

from wkv.cli import main

if __name__ == "__main__":
    sys.exit(main())
