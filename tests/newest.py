"""Exit with 0 if this environment's transformers is the one that `make test` uses anyway."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":
    pinned = re.search(r"^transformers==(.+)$", Path("constraints.txt").read_text(), re.MULTILINE)
    found = version("transformers")
    print(f"the newest transformers is {found}, make test uses {pinned[1]}")
    sys.exit(found != pinned[1])
