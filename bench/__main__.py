"""`python -m bench`: all measurements, after a line about the machine."""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from bench import models, tokenizer
from bench.files import SIZES, Files
from wkv.bench import Stream
from wkv.cli.machine import processor
from wkv.version import __version__

GENERATIONS = ("7", "6", "5.2", "4")
ENGINES = ("wkv", "rwkv", "llama")
TASKS = ("tokenizer", *models.TASKS, "zeros")


def main() -> None:
    """Print the machine, then each table; write all figures where --json says."""
    args = _parser().parse_args()
    if "llama" in args.engines and args.llama_python is None:
        args.engines.remove("llama")
        print("llama.cpp is not measured: install llama-cpp-python, or give --llama-python PYTHON")
    stream = Stream(torch.device("cpu"), args.threads)
    facts = _machine(args) | {"memory": stream.how}
    print(f"{facts['processor']}, torch {facts['torch']}, commit {facts['commit']}")
    print(f"{args.threads} threads, medians of {args.rounds} rounds in turn; memory {stream.how}")
    if "tokenizer" in args.tasks:
        print()
        tokenizer.main()
    with tempfile.TemporaryDirectory() as temporary:
        files = Files(args.files or Path(temporary), args.llama_python)
        measured = []
        if set(models.TASKS) & set(args.tasks):
            measured += models.compare(args, files, stream)
        if "zeros" in args.tasks and "wkv" in args.engines:
            measured += models.skipping(args, files, stream)
    if args.json is not None:
        args.json.write_text(json.dumps(facts | {"measured": measured}, indent=1) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    lists = {
        "sizes": (SIZES, ["0.1B"]),
        "generations": (GENERATIONS, ["7", "6"]),
        "formats": (models.FORMATS, list(models.FORMATS)),
        "engines": (ENGINES, list(ENGINES)),
        "tasks": (TASKS, list(TASKS)),
    }
    for name, (known, default) in lists.items():
        told = f"of {', '.join(known)}; default: {','.join(default)}"
        add(f"--{name}", type=_some(known), default=default, metavar="NAME,NAME", help=told)
    add("--rounds", type=int, default=5, metavar="N", help="that are kept (default: 5)")
    add("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    add("--zeros", type=_share, default=0.88, metavar="SHARE", help="of zeros (default: 0.88)")
    add("--memory", type=float, default=16, metavar="GB", help="of all workers (default: 16)")
    add("--files", type=Path, metavar="DIR", help="keep the models there (default: thrown away)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    here = sys.executable if importlib.util.find_spec("llama_cpp") else None
    add("--llama-python", default=here, metavar="PYTHON", help="one that has llama_cpp")
    return parser


def _some(names: Iterable[str]) -> Callable[[str], list[str]]:
    """A list of names between commas, for argparse."""
    known = tuple(names)

    def read(text: str) -> list[str]:
        wanted = text.split(",")
        wrong = [name for name in wanted if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
        return wanted

    return read


def _share(text: str) -> float:
    """A share of zeros that a random model can have, for argparse."""
    share = float(text)
    if not 0.5 <= share < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is not from 0.5, which is any random model's, to 1"
        )
    return share


def _machine(args: argparse.Namespace) -> dict[str, object]:
    """What ran, and where."""
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return {
        "processor": processor().found,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "wkv": __version__,
        "commit": commit,
        "threads": args.threads,
        "rounds": args.rounds,
    }


if __name__ == "__main__":
    main()
