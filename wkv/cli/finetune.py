"""Fine-tune a model on examples, and prove what it learned and what it forgot.

The report goes to stderr, and the path of the result to stdout.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from wkv.cli.options import BUILT_IN, find_model

SUMMARY = "tune a model on your examples: an adapter, an initial state, or all weights"

METHODS = ("lora", "state", "full", "miss", "dora")

OPTIONS: dict[str, dict[str, tuple[Any, str, str]]] = {
    "what is trained": {
        "rank": (int, "R", "rank of an adapter (default: 16)"),
        "alpha": (float, "A", "scale of an adapter: alpha / rank (default: 32)"),
        "targets": (str, "NAMES", "matrices of an adapter: all (default), or att.key,ffn.value …"),
        "freeze_layers": (int, "K", "leave the first K layers unchanged (not for a state)"),
        "base_dtype": (str, "DTYPE", "frozen weights: auto, fp32, bf16, fp16, int8 or int4"),
        "from": (str, "PATH", "begin with an adapter or state of an earlier run"),
    },
    "optimization": {
        "learning_rate": (float, "X", "peak learning rate (default: by method and width; tried "
                          "on held-out documents for a state)"),
        "epochs": (float, "N", "length: number of times that all documents are used"),
        "steps": (int, "N", "length in steps; such a run can be reproduced exactly"),
        "minutes": (float, "M", "length in minutes"),
        "warmup": (int, "N", "steps in which the learning rate increases (default: 10)"),
        "schedule": (str, "NAME", "cosine (default) or linear, both to a tenth, or constant"),
        "clip": (float, "X", "largest norm of the gradient (default: 1)"),
        "weight_decay": (float, "X", "decay of matrices (default: 0; 0.1 with --method full)"),
        "rows": (int, "N", "documents per step"),
        "tokens_per_step": (int, "N", "choose --rows by the mean length of documents"),
        "seed": (int, "N", "seed of adapters, order and held-out documents (default: 0)"),
    },
    "data": {
        "format": (str, "NAME", "auto (default), text, messages, sharegpt, alpaca or completion"),
        "context": (int, "T", "longest row in tokens; longer conversations are divided between "
                    "turns (default: 1024)"),
        "carry": (int, "T", "documents of any length: cut the gradient after T tokens, and carry "
                  "the state on"),
        "turns": (int, "N", "join up to N conversations to one, so that a state lasts longer"),
        "mask": (str, "WHAT", "learn only answers (default), all, or the rest with a weight"),
        "system": (str, "TEXT", "a system message for conversations without one"),
        "first_id": (str, "ID", "auto (default), 0: documents begin with id 0, or none"),
        "hold_out": (str, "WHAT", "documents to measure on: a share (default: 5%%) or a file"),
        "mix": (str, "FILE:SHARE", "mix other data in, against forgetting, such as old.jsonl:0.3"),
    },
    "measuring": {
        "eval_every": (int, "N", "steps between two measurements of held-out documents"),
        "samples": (int, "N", "answers that are written before and after (default: 4)"),
        "keep": (str, "WHAT", "keep the best (default) or the last tensors"),
    },
}  # fmt: skip
"""Type, placeholder and help text of each option, by group."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv finetune` to the parser."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=f"a model file, a directory, or a name ({BUILT_IN}: the built-in model)",
    )
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="examples: .jsonl (messages, conversations, instruction, prompt, text), .txt, "
        ".parquet, binidx, .npy, or a folder of them",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of the run")
    parser.add_argument("--method", choices=METHODS, help="what is trained (default: lora)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in OUT, with its options"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="read, report and estimate, but train nothing"
    )
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, (kind, metavar, text) in options.items():
            option = "--" + name.replace("_", "-")
            dest = "from_path" if name == "from" else name
            group.add_argument(option, type=kind, metavar=metavar, help=text, dest=dest)
        if title == "data":
            group.add_argument(
                "--skip-thinking",
                action="store_true",
                default=None,
                dest="skips_thinking",
                help="answers begin with empty thoughts, as in a chat without thinking",
            )
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--checkpoint-blocks",
        action=argparse.BooleanOptionalAction,
        help="compute blocks again in the backward pass: slower, less memory (default: if needed)",
    )
    group.add_argument(
        "--processes", type=int, default=1, metavar="N", help="processes that share a step"
    )
    group.add_argument("--threads", type=int, metavar="N", help="threads per process")


def run(args: argparse.Namespace) -> int:
    """Tune, and return 0 if the run is complete, or 1 if it was stopped."""
    base = None if args.model == BUILT_IN else find_model(args.model) or args.model

    from wkv.train.finetune import finetune
    from wkv.train.progress import shown
    from wkv.train.tuning.options import OPTION_NAMES

    options = {
        name: value for name in OPTION_NAMES if (value := getattr(args, name, None)) is not None
    }
    with shown(sys.stderr) as report:
        done = finetune(
            base,
            args.data,
            args.out,
            **options,
            resume=args.resume,
            dry_run=args.dry_run,
            processes=args.processes,
            threads=args.threads,
            notify=lambda message: print(message, file=sys.stderr, flush=True),
            report=report,
        )
    if done.path is not None:
        print(done.path)
    return 0 if done.is_done else 1
