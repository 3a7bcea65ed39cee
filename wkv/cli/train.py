"""`wkv train DATA OUT`: train a small RWKV-7 from scratch on text."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wkv.train.loop import Job

SUMMARY = "train a small RWKV-7 from scratch on text"
DEFAULTS = {
    "steps": None,
    "minutes": 10.0,
    "context": 512,
    "rows": 8,
    "learning_rate": 3e-3,
    "processes": 1,
    "seed": 0,
    "layers": 6,
    "width": 192,
    "vocab_size": 2048,
}
"""Options of a new run; a resumed one takes those it was started with."""

NUMBERS = {
    "layers": (int, "L", "layers"),
    "width": (int, "D", "channels, a multiple of 64"),
    "vocab_size": (int, "V", "size of the vocabulary"),
    "context": (int, "T", "tokens per row"),
    "rows": (int, "B", "rows per step"),
    "learning_rate": (float, "R", "peak rate"),
    "processes": (int, "N", "processes that share the rows"),
    "seed": (int, "N", "of the weights and the order of the data"),
}
"""Type, placeholder and meaning of the options that are a number with a default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `wkv train`."""
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="a text file, or a folder of .txt files"
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="folder for model.safetensors, its vocabulary and the log",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in OUT, with its options"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=int, metavar="N", help="length of the run in steps; can be repeated exactly"
    )
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"length of the run by the clock (default: {DEFAULTS['minutes']:g})",
    )
    for name, (kind, metavar, text) in NUMBERS.items():
        told = f"{text} (default: {DEFAULTS[name]})"
        parser.add_argument("--" + name.replace("_", "-"), type=kind, metavar=metavar, help=told)
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads in each process (default: all cores, shared out)",
    )
    parser.add_argument("--no-compile", action="store_true", help="do not use torch.compile")


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run is complete, 1 when it was stopped."""
    from wkv.train.loop import train
    from wkv.train.progress import shown

    job = _job(args)
    with shown(sys.stderr) as report:
        is_done = train(job, report, lambda message: print(message, file=sys.stderr))
    if not is_done:
        print(f"stopped; go on with --resume ({job.folder.checkpoint})", file=sys.stderr)
        return 1
    print(job.folder.model)
    return 0


def _job(args: argparse.Namespace) -> "Job":
    """What the command line asks for; a resumed run has the options that it began with."""
    from wkv.train.run_folder import RunFolder
    from wkv.train.settings import Plan, choose
    from wkv.train.text import text_job

    folder = RunFolder(args.out)
    folder.check(args.resume)
    saved = folder.load()["plan"] if args.resume else {}
    options = choose(vars(args), saved, DEFAULTS)
    sizes = {name: options.pop(name) for name in ("layers", "width", "vocab_size")}
    plan = Plan(**options, compile=not args.no_compile)
    shared_out = max(1, (os.cpu_count() or 1) // plan.processes)
    plan = replace(plan, threads=shared_out if args.threads is None else args.threads)
    return text_job(args.data, args.out, plan, **sizes, resume=args.resume)
