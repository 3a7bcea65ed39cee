"""`wkv train DATA OUT`: train a small RWKV-7 from scratch on text."""

import argparse
import sys
from pathlib import Path

SUMMARY = "train a small RWKV-7 from scratch on text"


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
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUT")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--steps", type=int, metavar="N", help="length of the run in steps; can be repeated exactly"
    )
    length.add_argument(
        "--minutes", type=float, metavar="M", help="length of the run by the clock (default: 10)"
    )
    parser.add_argument("--layers", type=int, default=6, metavar="L", help="layers (default: 6)")
    parser.add_argument(
        "--width",
        type=int,
        default=192,
        metavar="D",
        help="channels, a multiple of 64 (default: 192)",
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        default=2048,
        metavar="V",
        help="size of the vocabulary (default: 2048)",
    )
    parser.add_argument(
        "--context", type=int, default=512, metavar="T", help="tokens per row (default: 512)"
    )
    parser.add_argument(
        "--rows", type=int, default=8, metavar="B", help="rows per step (default: 8)"
    )
    parser.add_argument(
        "--learning-rate", type=float, default=3e-3, metavar="R", help="peak rate (default: 3e-3)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="processes that share the rows (default: 1)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads in each process (default: all cores, shared out)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the weights and the order of the data (default: 0)"
    )
    parser.add_argument("--no-compile", action="store_true", help="do not use torch.compile")


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run is complete, 1 when it was stopped."""
    import os

    from wkv.train.loop import Plan, train
    from wkv.train.progress import shown
    from wkv.train.text import text_job

    plan = Plan(
        steps=args.steps,
        minutes=None if args.steps is not None else args.minutes or 10.0,
        context=args.context,
        rows=args.rows,
        learning_rate=args.learning_rate,
        processes=args.processes,
        threads=args.threads or max(1, (os.cpu_count() or 1) // args.processes),
        seed=args.seed,
        compile=not args.no_compile,
    )
    job = text_job(
        args.data,
        args.out,
        plan,
        layers=args.layers,
        width=args.width,
        vocab_size=args.vocab_size,
        resume=args.resume,
    )
    with shown(sys.stderr) as report:
        is_done = train(job, report, lambda message: print(message, file=sys.stderr))
    if not is_done:
        print(f"stopped; go on with --resume ({job.folder.checkpoint})", file=sys.stderr)
        return 1
    print(job.folder.model)
    return 0
