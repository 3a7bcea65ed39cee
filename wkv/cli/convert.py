"""Write a checkpoint in another form, and prove that its logits are the same."""

import argparse
import time

from wkv.cli.options import find_model

SUMMARY = "write a checkpoint in another form, verified"

FORMS = ("pth", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv convert`."""
    parser.add_argument("source", metavar="SRC", help="a checkpoint, or a name of the catalog")
    parser.add_argument("destination", metavar="DST", help="the file to write")
    parser.add_argument("--to", choices=FORMS, required=True, help="the form to write")
    parser.add_argument(
        "--strategy",
        metavar="STRATEGY",
        help="prepare the file for a strategy, such as 'cuda fp16i8': it loads faster and in less "
        "memory, and `auto` takes that strategy from then on; default: keep every dtype",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")


def run(args: argparse.Namespace) -> int:
    """Convert; prints what was written and what was proved."""
    from wkv.conversion import PROOF_TOKENS, convert

    begun = time.perf_counter()
    done = convert(
        find_model(args.source) or args.source,
        args.destination,
        to=args.to,
        strategy=args.strategy,
        overwrite=args.overwrite,
    )
    made = f", made for {done.strategy}" if done.strategy else ""
    print(f"{done.path}: {done.n_bytes:,} bytes{made}, {time.perf_counter() - begun:.1f} s")
    if done.dropped:
        print(f"left out, since no model uses them: {', '.join(done.dropped)}")
    print(
        f"read again, the largest difference of logits is {done.largest_difference:g} "
        f"({PROOF_TOKENS} tokens, as one sequence and one by one)"
    )
    return 0
