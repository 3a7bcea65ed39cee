"""Install wkv in an environment with pip, and print what is being done every few seconds.

    python -m recipes.install .venv '.[train,dev]' --all-levels

pip prints nothing while it compiles a package or unpacks a large one, which takes minutes here.
"""

import argparse
import subprocess
import sys
import threading
import time
from pathlib import Path

SECONDS = 4.0
"""Time between two lines of progress."""

PHASES = {
    "Installing build dependencies": "downloading the build tools",
    "Preparing ": "compiling the native engine",
    "Collecting ": "downloading {}",
    "Downloading ": "downloading {}",
    "Installing collected packages": "unpacking the packages; PyTorch is the largest",
    "Successfully installed": "done",
}
"""Beginnings of pip's lines, and the phases that they begin; {} is the word after the beginning."""


def phase_of(line: str) -> str | None:
    """Return the phase that a line of pip's output begins, or None."""
    text = line.strip()
    for start, phase in PHASES.items():
        if text.startswith(start):
            word = text[len(start) :].split(" ")[0].split("/")[-1]
            return phase.format(word)
    return None


def run(command: list[str]) -> int:
    """Run pip and print its phases; its whole output, if it fails. Returns its exit status."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    started, phase, lines = time.monotonic(), "asking for the packages", []
    ended = threading.Event()

    def report() -> None:
        while True:
            print(f"{time.monotonic() - started:5.0f} s  {phase}", flush=True)
            if ended.wait(SECONDS):
                return

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    for line in process.stdout:
        lines.append(line)
        phase = phase_of(line) or phase
    ended.set()
    thread.join()
    status = process.wait()
    if status != 0:
        print("".join(lines), file=sys.stderr)
    else:
        print(f"{time.monotonic() - started:5.0f} s  installed", flush=True)
    return status


def main() -> int:
    """Install what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("environment", type=Path, help="the virtual environment")
    parser.add_argument("package", help="the package, such as '.' or '.[train,dev]'")
    parser.add_argument(
        "--all-levels", action="store_true", help="compile the kernels of all CPUs, not of this one"
    )
    args = parser.parse_args()
    pip = [str(args.environment / "bin/python"), "-u", "-m", "pip", "--disable-pip-version-check"]
    # Python compiles a module when it is first imported; compiling all of PyTorch's takes longer.
    options = ["--progress-bar", "off", "--no-compile", "-c", "constraints.txt"]
    if args.all_levels:
        options += ["--config-settings", "cmake.define.WKV_ALL_LEVELS=ON"]
    return run([*pip, "install", *options, "-e", args.package])


if __name__ == "__main__":
    sys.exit(main())
