"""Convert a checkpoint to another format, and verify the result against the original.

`--to pth` and `--to safetensors` write one file, optionally prepared for a strategy. `--to hf`
writes a Hugging Face directory with weights, config, code, tokenizer and model card. `--to gguf`
writes one file for llama.cpp. Adapters and tuned states are converted too: `--to peft`, `pth-lora`
and `pth-state` (RWKV-PEFT, RWKV-Runner), `ai00-lora` and `ai00-state` (web-rwkv, ai00) and
`gguf-lora` (llama.cpp).
"""

import argparse
import time
from pathlib import Path

from wkv.cli.notices import notice, slow_step
from wkv.cli.options import add_alpha, find_model

SUMMARY = "convert a checkpoint to another format and verify it"

OPTIONS_OF = {
    "gguf": ("dtype", "tokenizer", "overwrite"),
    "hf": ("layout", "dtype", "shard_size", "license", "context", "tokenizer", "push_to_hub"),
    "pth": ("strategy", "overwrite"),
    "safetensors": ("strategy", "overwrite"),
    "peft": ("alpha", "base"),
    "pth-lora": ("alpha", "base", "overwrite"),
    "ai00-lora": ("alpha", "base", "overwrite"),
    "gguf-lora": ("alpha", "base", "overwrite"),
    "pth-state": ("base", "overwrite"),
    "ai00-state": ("base", "overwrite"),
}
"""Output formats, and the options that each of them accepts."""

DTYPES = ("fp32", "bf16", "fp16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv convert` to the parser."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a model file, a Hugging Face directory, a name such as g1:0.1b (demo: the built-in "
        "model), an adapter, or a tuned state",
    )
    parser.add_argument("destination", metavar="DST", help="the file or directory to write")
    parser.add_argument(
        "--to",
        choices=tuple(OPTIONS_OF),
        metavar="FORMAT",
        required=True,
        help=f"output format: {', '.join(OPTIONS_OF)}",
    )
    files = parser.add_argument_group("for pth and safetensors")
    files.add_argument(
        "--strategy",
        metavar="STRATEGY",
        help="prepare the file for a strategy such as 'cuda fp16i8', so that it loads faster and "
        "with less memory; `auto` then selects that strategy (default: keep all dtypes)",
    )
    files.add_argument(
        "--overwrite", action="store_true", help="replace DST if it exists (also for other files)"
    )
    both = parser.add_argument_group("for hf and gguf")
    both.add_argument(
        "--dtype",
        choices=(*DTYPES, "q8_0"),
        help="precision of the weights (default: that of the source; q8_0, with 8 bits, is only "
        "for gguf)",
    )
    both.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="tokenizer file (default: selected by the vocabulary size)",
    )
    tuned = parser.add_argument_group("for adapters and tuned states")
    tuned.add_argument(
        "--base",
        metavar="MODEL",
        help="the model that was tuned: SRC is checked against it, and its generation is used for "
        "the names in DST (default: RWKV-7, unless SRC says or shows another one)",
    )
    add_alpha(tuned)
    folders = parser.add_argument_group("for hf")
    folders.add_argument(
        "--layout",
        choices=("hub", "fla", "official"),
        help="naming scheme of the tensors (default: hub for RWKV-4 to 6, fla for RWKV-7; "
        "official: as in RWKV's own RWKV-7 directories of 2026-08)",
    )
    folders.add_argument(
        "--shard-size", metavar="SIZE", help="largest size of one weights file (default: 5GB)"
    )
    folders.add_argument(
        "--license", "--licence", metavar="ID", help="license of the weights, such as apache-2.0"
    )
    folders.add_argument(
        "--context", type=int, metavar="T", help="context length the model was trained with"
    )
    folders.add_argument(
        "--push-to-hub", metavar="REPO", help="upload the directory to this repository (you/name)"
    )


def run(args: argparse.Namespace) -> int:
    """Convert the checkpoint, and print what was written and how it was verified."""
    options = dict.fromkeys(name for names in OPTIONS_OF.values() for name in names)
    given = [name for name in options if getattr(args, name) not in (None, False)]
    wrong = [name for name in given if name not in OPTIONS_OF[args.to]]
    if wrong:
        args.usage_error(f"--{wrong[0].replace('_', '-')} does not go with --to {args.to}")
    if args.to == "hf" and args.dtype not in (None, *DTYPES):
        args.usage_error(f"--dtype {args.dtype} does not go with --to hf")
    begun = time.perf_counter()
    is_tuned = "base" in OPTIONS_OF[args.to]
    source = args.source if is_tuned else find_model(args.source) or args.source
    if is_tuned:
        _to_tuned(args, source)
    elif args.to == "hf":
        _to_folder(args, source)
    elif args.to == "gguf":
        _to_gguf(args, source)
    else:
        _to_file(args, source)
    notice(f"[{time.perf_counter() - begun:.1f} s]")
    return 0


def _to_file(args: argparse.Namespace, source: str | Path) -> None:
    """Write a .pth or .safetensors file."""
    from wkv.convert.checkpoint_file import convert
    from wkv.convert.verify import N_TOKENS

    with slow_step(f"converting {source}"):
        done = convert(
            source,
            args.destination,
            to=args.to,
            strategy=args.strategy,
            overwrite=args.overwrite,
        )
    made = f", made for {done.strategy}" if done.strategy else ""
    print(f"{done.path}: {done.n_bytes:,} bytes{made}")
    _print_dropped(done.dropped)
    print(
        f"verified: the largest difference of logits is {done.largest_difference:g} "
        f"({N_TOKENS} tokens, as one sequence and one by one)"
    )


def _to_tuned(args: argparse.Namespace, source: str | Path) -> None:
    """Write an adapter or a tuned state for another program."""
    from wkv.convert.tuned import TunedOptions, convert_tuned

    base = find_model(args.base)
    options = TunedOptions(args.to, args.alpha, base, args.overwrite)
    done = convert_tuned(source, args.destination, options)
    print(f"{done.path}: {done.n_tensors} {'layers' if 'state' in args.to else 'tensors'}")
    print(f"verified: the largest difference of a value is {done.difference:.3g}")
    if done.alpha is not None:
        notice(f"this format does not contain alpha: use the file with alpha {done.alpha:g}")
    if done.generation is not None:
        notice(
            f"the names are those of RWKV-{done.generation}, which {source} does not say; if that "
            "is wrong, name the model that was tuned: --base MODEL"
        )
    for name, value in (done.notes or {}).items():
        notice(f"not in the file: {name} = {value}")


def _to_folder(args: argparse.Namespace, source: str | Path) -> None:
    """Write a Hugging Face directory, and upload it if --push-to-hub was given."""
    from wkv.convert.huggingface.export import ExportOptions, export
    from wkv.convert.huggingface.upload import check_name, upload

    if args.push_to_hub:
        check_name(args.push_to_hub)

    given = {
        name: getattr(args, name)
        for name in ("layout", "dtype", "shard_size", "license", "context", "tokenizer")
        if getattr(args, name) is not None
    }
    done = export(source, args.destination, ExportOptions(**given), notice)
    print(f"{done.path}: the {done.layout} layout, tokenizer {done.tokenizer or 'none'}")
    _print_dropped(done.dropped)
    for change in done.repaired:
        print(f"changed: {change}")
    verification = done.verification
    print(f"verified with wkv: the largest difference of logits is {verification.by_wkv:g}")
    if verification.by_transformers is None:
        print(f"not verified with transformers: {verification.reason}")
    else:
        print(
            "verified with transformers in float32: the largest difference is "
            f"{verification.by_transformers:.2g}, and the greedy tokens agree"
        )
    if args.push_to_hub:
        print(upload(done.path, args.push_to_hub))


def _to_gguf(args: argparse.Namespace, source: str | Path) -> None:
    """Write a GGUF file for llama.cpp."""
    from wkv.convert.gguf.export import write_gguf

    with slow_step(f"converting {source}"):
        done = write_gguf(
            source,
            args.destination,
            dtype=args.dtype,
            tokenizer=args.tokenizer,
            overwrite=args.overwrite,
        )
    print(f"{done.path}: {done.n_bytes:,} bytes, {done.dtype}, tokenizer {done.tokenizer}")
    _print_dropped(done.dropped)
    print(
        f"verified: its {done.n_tensors} tensors and {done.n_fields} fields are those of the "
        f"source, rounded to {done.dtype}"
    )
    if done.by_llama is None:
        print(f"not verified with llama.cpp: {done.reason}")
    else:
        print(f"verified with llama.cpp: the largest difference of logits is {done.by_llama:.2g}")


def _print_dropped(names: tuple[str, ...]) -> None:
    if names:
        print(f"not written, because no model uses them: {', '.join(names)}")
