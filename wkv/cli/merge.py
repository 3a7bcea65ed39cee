"""Merge an adapter or a tuned state into its base model, and verify the result.

The adapter may be a folder of peft, rwkvtune or mlx-lm, or a file of RWKV-PEFT, web-rwkv or
llama.cpp; the state a file of RWKV-PEFT, web-rwkv, rwkv-metal or wkv. The merged model has the
format and the dtypes of the base.
"""

import argparse
import time

from wkv.cli.notices import notice, slow_step
from wkv.cli.options import add_alpha, find_model

SUMMARY = "merge an adapter or a tuned state into a model"

SHOWN = 0.01
"""The fraction of changed weights that rounding may undo without a notice."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv merge` to the parser."""
    parser.add_argument(
        "base", metavar="MODEL", help="the model that was tuned: a file, a directory, or a name"
    )
    parser.add_argument("change", metavar="ADAPTER", help="an adapter, or a tuned state")
    parser.add_argument("destination", metavar="OUT", help="the file or directory to write")
    add_alpha(parser)
    parser.add_argument(
        "--to",
        choices=("pth", "safetensors", "hf", "gguf"),
        help="output format (default: by the extension of OUT, otherwise that of MODEL)",
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        help="precision of the weights (default: that of MODEL)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: argparse.Namespace) -> int:
    """Merge, and print what was written and how it was verified."""
    begun = time.perf_counter()
    base = find_model(args.base) or args.base

    from wkv.convert.merge import MergeOptions, merge
    from wkv.convert.verify import N_TOKENS

    options = MergeOptions(args.alpha, args.to, args.dtype, args.overwrite)
    with slow_step(f"merging {args.change}"):
        done = merge(base, args.change, args.destination, options)
    print(f"{done.path}: {done.dtype}, {done.n_changed} tensors changed")
    print(
        "verified: the largest difference of logits from base and adapter is "
        f"{done.difference:.3g} ({N_TOKENS} tokens in float32); without rounding to {done.dtype} "
        f"it is {done.by_merging:.3g}"
    )
    print(
        f"rounding to {done.dtype}: weights differ by at most {done.rounding:.3g}, and "
        f"{done.lost:.1%} of the changed weights keep their old value"
    )
    if done.lost > SHOWN:
        notice("to keep all changes, merge with --dtype fp32, or use --adapter without merging")
    notice(f"[{time.perf_counter() - begun:.1f} s]")
    return 0
