"""A `wkv serve` process for benchmarks that measure it over HTTP."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

STOP_SECONDS = 60


@dataclass(frozen=True)
class Started:
    """A running server: its address and its process."""

    address: str
    process: subprocess.Popen


@contextmanager
def started(model: str | None, options: Sequence[str]) -> Iterator[Started]:
    """Serve a model, or the built-in one, on a free port; the server is stopped afterwards."""
    command = [sys.executable, "-m", "wkv", "serve", *([model] if model else [])]
    process = subprocess.Popen(
        [*command, "--port", "0", *options], stdout=subprocess.PIPE, text=True
    )
    try:
        found = None
        for line in process.stdout:
            found = re.search(r"(http://\S+)/$", line)
            if found:
                break
        if found is None:
            sys.exit("the server did not start")
        yield Started(found[1], process)
    finally:
        process.terminate()
        process.wait(timeout=STOP_SECONDS)
