"""Write a checkpoint in another form, and prove that its logits are the same.

`--to pth` and `--to safetensors` write one file, as it is or prepared for a strategy; `--to hf`
writes a Hugging Face directory: weights, config, code, tokenizer, card; `--to gguf` writes one file
for llama.cpp.
"""

import argparse
import time
from pathlib import Path

from wkv.cli.notices import notice
from wkv.cli.options import find_model

SUMMARY = "write a checkpoint in another form, verified"

GOES_WITH = {
    "gguf": ("dtype", "tokenizer", "overwrite"),
    "hf": ("layout", "dtype", "shard_size", "license", "context", "tokenizer", "push_to_hub"),
    "pth": ("strategy", "overwrite"),
    "safetensors": ("strategy", "overwrite"),
}
"""The forms, and the options that each of them takes."""

DTYPES = ("fp32", "bf16", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv convert`."""
    parser.add_argument(
        "source", metavar="SRC", help="a checkpoint, a Hugging Face directory, or a catalog name"
    )
    parser.add_argument("destination", metavar="DST", help="the file or directory to write")
    parser.add_argument("--to", choices=tuple(GOES_WITH), required=True, help="the form to write")
    files = parser.add_argument_group("for pth and safetensors")
    files.add_argument(
        "--strategy",
        metavar="STRATEGY",
        help="prepare the file for a strategy, such as 'cuda fp16i8': it loads faster and in less "
        "memory, and `auto` takes that strategy from then on; default: keep every dtype",
    )
    files.add_argument(
        "--overwrite", action="store_true", help="replace DST if it exists; for gguf too"
    )
    both = parser.add_argument_group("for hf and gguf")
    both.add_argument(
        "--dtype",
        choices=(*DTYPES, "q8_0"),
        help="of the matrices (default: as they are); q8_0, 8 bits, is for gguf only",
    )
    both.add_argument("--tokenizer", type=Path, metavar="FILE", help="default: by the vocabulary")
    folders = parser.add_argument_group("for hf")
    folders.add_argument(
        "--layout",
        choices=("hub", "fla", "official"),
        help="names of the tensors (default: hub for 4 to 6, fla for 7; official: those of "
        "RWKV's own directories of 2026-08, for 7)",
    )
    folders.add_argument("--shard-size", metavar="SIZE", help="of a file (default: 5GB)")
    folders.add_argument("--license", "--licence", metavar="ID", help="such as apache-2.0")
    folders.add_argument(
        "--context", type=int, metavar="T", help="tokens it was trained on at once"
    )
    folders.add_argument("--push-to-hub", metavar="REPO", help="upload it, such as to you/name")


def run(args: argparse.Namespace) -> int:
    """Convert; prints what was written and what was proved."""
    options = dict.fromkeys(name for names in GOES_WITH.values() for name in names)
    given = [name for name in options if getattr(args, name) not in (None, False)]
    wrong = [name for name in given if name not in GOES_WITH[args.to]]
    if wrong:
        args.usage_error(f"--{wrong[0].replace('_', '-')} does not go with --to {args.to}")
    if args.to == "hf" and args.dtype not in (None, *DTYPES):
        args.usage_error(f"--dtype {args.dtype} does not go with --to hf")
    begun = time.perf_counter()
    source = find_model(args.source) or args.source
    if args.to == "hf":
        _to_folder(args, source)
    elif args.to == "gguf":
        _to_gguf(args, source)
    else:
        _to_file(args, source)
    notice(f"[{time.perf_counter() - begun:.1f} s]")
    return 0


def _to_file(args: argparse.Namespace, source: str | Path) -> None:
    """Write a .pth or .safetensors."""
    from wkv.convert.checkpoint_file import PROOF_TOKENS, convert

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
    from wkv.convert.huggingface.export import Choices, export
    from wkv.convert.huggingface.upload import check_name, upload

    if args.push_to_hub:
        check_name(args.push_to_hub)

    given = {
        name: getattr(args, name)
        for name in ("layout", "dtype", "shard_size", "license", "context", "tokenizer")
        if getattr(args, name) is not None
    }
    done = export(source, args.destination, Choices(**given), notice)
    print(f"{done.path}: the {done.layout} layout, tokenizer {done.tokenizer or 'none'}")
    _tell_dropped(done.dropped)
    for change in done.repaired:
        print(f"changed: {change}")
    proof = done.proof
    print(f"read again by wkv, the largest difference of logits is {proof.by_wkv:g}")
    if proof.by_transformers is None:
        print(f"not read by transformers: {proof.reason}")
    else:
        print(
            f"read by transformers in float32, it is {proof.by_transformers:.2g}; greedy tokens "
            "agree"
        )
    if args.push_to_hub:
        print(upload(done.path, args.push_to_hub))


def _to_gguf(args: argparse.Namespace, source: str | Path) -> None:
    """Write a file for llama.cpp."""
    from wkv.convert.gguf.export import write_gguf

    done = write_gguf(
        source,
        args.destination,
        dtype=args.dtype,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
    )
    print(f"{done.path}: {done.n_bytes:,} bytes, {done.dtype}, tokenizer {done.tokenizer}")
    _tell_dropped(done.dropped)
    print(
        f"read again, its {done.n_tensors} tensors and {done.n_fields} fields are those of the "
        f"source, rounded to {done.dtype}"
    )
    if done.by_llama is None:
        print(f"not read by llama.cpp: {done.reason}")
    else:
        print(f"read by llama.cpp, the largest difference of logits is {done.by_llama:.2g}")


def _tell_dropped(names: tuple[str, ...]) -> None:
    if names:
        print(f"left out, since no model uses them: {', '.join(names)}")
