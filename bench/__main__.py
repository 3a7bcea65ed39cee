"""Measure the speed of wkv, the `rwkv` package and llama.cpp on random models."""

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

from bench import models, speculation, tokenizer
from bench.files import SIZES, Files
from wkv.bench import Stream
from wkv.cli.machine import processor
from wkv.version import __version__

GENERATIONS = ("7", "6", "5.2", "4")
ENGINES = ("wkv", "rwkv", "llama")
TASKS = ("tokenizer", *models.TASKS, "zeros", "acceptance", "equality", "speculation")


def main() -> None:
    """Print the machine and the tables, and write all results to the file of --json."""
    args = _parser().parse_args()
    if "llama" in args.engines and args.llama_python is None:
        args.engines.remove("llama")
        print("llama.cpp is not measured; install llama-cpp-python, or use --llama-python PYTHON")
    stream = Stream(torch.device("cpu"), args.threads)
    facts = _machine(args) | {"memory": stream.how}
    print(f"{facts['processor']}, torch {facts['torch']}, commit {facts['commit']}")
    print(f"{args.threads} threads, medians of {args.rounds} rounds; memory {stream.how}")
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
        if "acceptance" in args.tasks:
            measured += speculation.acceptance()
        if "equality" in args.tasks:
            measured += speculation.equality(args, files)
        if "speculation" in args.tasks and "wkv" in args.engines:
            measured += speculation.speeds(args, files, stream)
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
        text = f"{name} to measure, of {', '.join(known)} (default: {','.join(default)})"
        add(f"--{name}", type=_name_list(known), default=default, metavar="NAME,NAME", help=text)
    rounds = "number of rounds after the warm-up (default: 5)"
    add("--rounds", type=int, default=5, metavar="N", help=rounds)
    threads = "number of CPU threads (default: one per core)"
    add("--threads", type=int, default=os.cpu_count(), metavar="N", help=threads)
    zeros = "share of zero activations in the task zeros (default: 0.88)"
    add("--zeros", type=_share, default=0.88, metavar="SHARE", help=zeros)
    memory = "memory limit of all workers together (default: 16)"
    add("--memory", type=float, default=16, metavar="GB", help=memory)
    files = "folder to store the random models in (default: a temporary folder)"
    add("--files", type=Path, metavar="DIR", help=files)
    add("--json", type=Path, metavar="FILE", help="write all results to this file")
    here = sys.executable if importlib.util.find_spec("llama_cpp") else None
    llama = "Python interpreter with llama_cpp installed (default: this one, if it has it)"
    add("--llama-python", default=here, metavar="PYTHON", help=llama)
    return parser


def _name_list(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a parser of comma-separated names; used by argparse."""
    known = tuple(names)

    def read(text: str) -> list[str]:
        wanted = text.split(",")
        wrong = [name for name in wanted if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is unknown; use {', '.join(known)}")
        return wanted

    return read


def _share(text: str) -> float:
    """Parse a share of zeros that a random model can have; used by argparse."""
    share = float(text)
    if not 0.5 <= share < 1:
        raise argparse.ArgumentTypeError(
            f"{text} is out of range; expected at least 0.5, as in any random model, and below 1"
        )
    return share


def _machine(args: argparse.Namespace) -> dict[str, object]:
    """Return facts about the machine, the software versions and the options."""
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
