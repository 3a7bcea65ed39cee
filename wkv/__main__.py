"""`python -m wkv` is `wkv`."""

import sys

from wkv.cli import main

if __name__ == "__main__":
    sys.exit(main())
