"""Train a small model from scratch on text files."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wkv.train.scratch import Job

SUMMARY = "train a small model from scratch on text"
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
    "generation": "7",
}
"""Default options of a new run; a resumed run uses the options it was started with."""

NUMBERS = {
    "layers": (int, "L", "number of layers"),
    "width": (int, "D", "channels per layer, a multiple of 64"),
    "vocab_size": (int, "V", "size of the vocabulary"),
    "context": (int, "T", "context length, in tokens"),
    "rows": (int, "B", "batch size: sequences per step"),
    "learning_rate": (float, "R", "peak learning rate"),
    "processes": (int, "N", "number of processes that share the batch"),
    "seed": (int, "N", "seed for the initial weights and the order of the data"),
}
"""Type, placeholder and help text of the numeric options with a default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv train` to the parser."""
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help='text file, file of JSON lines such as {"text": "..."}, or folder of such .txt and '
        ".jsonl files",
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="folder for model.safetensors, its vocabulary, the checkpoint and the log",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in OUT, with its options",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="number of training steps; such a run can be reproduced exactly",
    )
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help=f"training time in minutes (default: {DEFAULTS['minutes']:g})",
    )
    for name, (kind, metavar, text) in NUMBERS.items():
        option = "--" + name.replace("_", "-")
        text += f" (default: {DEFAULTS[name]})"
        parser.add_argument(option, type=kind, metavar=metavar, help=text)
    parser.add_argument(
        "--generation",
        choices=("4", "5.2", "6", "7"),
        help=f"generation of the model (default: {DEFAULTS['generation']})",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads per process (default: all cores, divided among the processes)",
    )
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="do not compile the model (training starts sooner and is slower)",
    )


def run(args: argparse.Namespace) -> int:
    """Train the model and return 0 if the run is complete, or 1 if it was stopped."""
    from wkv.train.progress import shown
    from wkv.train.scratch import train

    job = _job(args)
    with shown(sys.stderr) as report:
        is_done = train(job, report, lambda message: print(message, file=sys.stderr))
    if not is_done:
        print(f"stopped; continue with --resume ({job.folder.checkpoint})", file=sys.stderr)
        return 1
    print(job.folder.model)
    return 0


def _job(args: argparse.Namespace) -> "Job":
    """Return the training job of the options; a resumed run uses its original options."""
    from wkv.train.run_folder import RunFolder
    from wkv.train.settings import TrainingSettings, choose
    from wkv.train.text import text_job

    folder = RunFolder(args.out)
    folder.check(args.resume)
    saved = folder.load()["plan"] if args.resume else {}
    options = choose(vars(args), saved, DEFAULTS)
    sizes = {name: options.pop(name) for name in ("layers", "width", "vocab_size", "generation")}
    settings = TrainingSettings(**options, compile=not args.no_compile)
    threads = max(1, (os.cpu_count() or 1) // settings.processes)
    settings = replace(settings, threads=threads if args.threads is None else args.threads)
    return text_job(args.data, args.out, settings, **sizes, resume=args.resume)
