"""Write a checkpoint in another form, and prove that its logits are the same.

`--to pth` and `--to safetensors` write one file, as it is or prepared for a strategy; `--to hf`
writes a Hugging Face directory: weights, config, code, tokenizer, card.
"""

import argparse
import time
from pathlib import Path

from wkv.cli.notices import notice
from wkv.cli.options import find_model

SUMMARY = "write a checkpoint in another form, verified"

FORMS = ("hf", "pth", "safetensors")

HF_ONLY = ("layout", "dtype", "shard_size", "licence", "context", "tokenizer", "push_to_hub")
FILE_ONLY = ("strategy", "overwrite")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv convert`."""
    parser.add_argument(
        "source", metavar="SRC", help="a checkpoint, a Hugging Face directory, or a catalog name"
    )
    parser.add_argument("destination", metavar="DST", help="the file or directory to write")
    parser.add_argument("--to", choices=FORMS, required=True, help="the form to write")
    files = parser.add_argument_group("for pth and safetensors")
    files.add_argument(
        "--strategy",
        metavar="STRATEGY",
        help="prepare the file for a strategy, such as 'cuda fp16i8': it loads faster and in less "
        "memory, and `auto` takes that strategy from then on; default: keep every dtype",
    )
    files.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    folders = parser.add_argument_group("for hf")
    folders.add_argument(
        "--layout",
        choices=("hub", "fla", "official"),
        help="names of the tensors (default: hub for 4 to 6, fla for 7; official: those of "
        "RWKV's own directories of 2026-08, for 7)",
    )
    folders.add_argument(
        "--dtype", choices=("fp32", "bf16", "fp16"), help="of the matrices (default: as they are)"
    )
    folders.add_argument("--shard-size", metavar="SIZE", help="of a file (default: 5GB)")
    folders.add_argument("--licence", "--license", metavar="ID", help="such as apache-2.0")
    folders.add_argument(
        "--context", type=int, metavar="T", help="tokens it was trained on at once"
    )
    folders.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="default: by the vocabulary"
    )
    folders.add_argument("--push-to-hub", metavar="REPO", help="upload it, such as to you/name")


def run(args: argparse.Namespace) -> int:
    """Convert; prints what was written and what was proved."""
    others = FILE_ONLY if args.to == "hf" else HF_ONLY
    wrong = [name for name in others if getattr(args, name)]
    if wrong:
        args.usage_error(f"--{wrong[0].replace('_', '-')} does not go with --to {args.to}")
    begun = time.perf_counter()
    source = find_model(args.source) or args.source
    if args.to == "hf":
        _to_folder(args, source)
    else:
        _to_file(args, source)
    notice(f"[{time.perf_counter() - begun:.1f} s]")
    return 0


def _to_file(args: argparse.Namespace, source: str | Path) -> None:
    """Write a .pth or .safetensors."""
    from wkv.conversion import PROOF_TOKENS, convert

    done = convert(
        source,
        args.destination,
        to=args.to,
        strategy=args.strategy,
        overwrite=args.overwrite,
    )
    made = f", made for {done.strategy}" if done.strategy else ""
    print(f"{done.path}: {done.n_bytes:,} bytes{made}")
    _tell_dropped(done.dropped)
    print(
        f"read again, the largest difference of logits is {done.largest_difference:g} "
        f"({PROOF_TOKENS} tokens, as one sequence and one by one)"
    )


def _to_folder(args: argparse.Namespace, source: str | Path) -> None:
    """Write a Hugging Face directory, and upload it if that is wanted."""
    from wkv.publish.export import Choices, export
    from wkv.publish.upload import check_name, upload

    if args.push_to_hub:
        check_name(args.push_to_hub)

    given = {
        name: getattr(args, name)
        for name in ("layout", "dtype", "shard_size", "licence", "context", "tokenizer")
        if getattr(args, name) is not None
    }
    done = export(source, args.destination, Choices(**given), notice)
    print(f"{done.path}: the {done.layout} layout, tokenizer {done.tokenizer or 'none'}")
    _tell_dropped(done.dropped)
    proof = done.proof
    print(f"read again by wkv, the largest difference of logits is {proof.by_wkv:g}")
    if proof.by_transformers is None:
        print(f"not read by transformers: {proof.reason}")
    else:
        print(
            f"read by transformers in float32, it is {proof.by_transformers:.2g}; greedy tokens "
            "are the same"
        )
    if args.push_to_hub:
        print(upload(done.path, args.push_to_hub))


def _tell_dropped(names: tuple[str, ...]) -> None:
    if names:
        print(f"left out, since no model uses them: {', '.join(names)}")
