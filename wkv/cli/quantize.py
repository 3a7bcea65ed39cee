"""Write a checkpoint with int8 or int4 weights, and report the loss before saving it.

The report compares the quantized model with the original: size, speed, logits and bits per byte of
a text. The new file loads by memory mapping, and `auto` selects the strategy it was made for.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wkv.cli.notices import notice
from wkv.cli.options import find_model

if TYPE_CHECKING:
    from wkv.convert.mixture import Limit
    from wkv.evaluate.cost import Comparison
    from wkv.inference.model import Model

SUMMARY = "quantize a checkpoint to int8 or int4 and report the loss"

EXERCISES, TOKENS = 10, 1024
"""Default number of questions of each kind for the built-in model, and of tokens of the text."""

REPORTS = 4
"""Number of progress lines per stage if stderr is not a terminal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv quantize` to the parser."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a model file, a Hugging Face directory, or a name such as g1:0.1b (demo: the "
        "built-in model)",
    )
    parser.add_argument("destination", metavar="DST", help="the .safetensors file to write")
    parser.add_argument(
        "--to",
        choices=("int8", "int4"),
        help="format of the weights: 8.5 or 4.5 bits per weight, scales included (int4 is the "
        "default with --bits and --max-kl)",
    )
    mixed = parser.add_mutually_exclusive_group()
    mixed.add_argument(
        "--bits",
        type=float,
        metavar="B",
        help="store the matrices that lose most in int4 as int8, up to an average of B bits per "
        "weight (4.5 to 8.5)",
    )
    mixed.add_argument(
        "--max-kl",
        type=float,
        metavar="X",
        help="store as few matrices as int8 as needed for a KL divergence of at most X nats per "
        "token on the text (0.01 is hardly noticed)",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE|none",
        help="text like those that the model will read; int4 weights are rounded so that its "
        "outputs change least (default: a text that comes with wkv; none: round to the nearest)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    parser.add_argument(
        "--dry-run", action="store_true", help="only report the loss, and do not save the file"
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="X",
        help="save the file only if bits per byte rise by at most X",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="text to measure the loss on (default: a short story that comes with wkv)",
    )
    parser.add_argument(
        "--tokens",
        type=_count,
        default=TOKENS,
        metavar="N",
        help="number of tokens of the text to read (default: 1024)",
    )
    parser.add_argument(
        "--exercises",
        type=int,
        metavar="N",
        help="number of questions of each kind to ask the built-in model (default: 10)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME_OR_FILE",
        help="world, 20b, bytes, abc, or a file (default: selected by the vocabulary size)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Quantize the checkpoint and print the report.

    Raises:
        InputError: if the loss is larger than --max-loss allows, or cannot be measured.
    """
    limit = _limit(args)
    if args.max_loss is not None and not args.max_loss >= 0:
        args.usage_error(f"--max-loss is {args.max_loss:g}, expected 0 or more")
    if args.exercises is not None and args.exercises < 0:
        args.usage_error(f"--exercises is {args.exercises}, expected 0 or more")
    if args.calibrate is not None and args.to != "int4":
        args.usage_error("--calibrate needs --to int4; int8 loses almost nothing without it")
    source = find_model(args.source) or args.source
    from wkv.convert.calibrate import CALIBRATION
    from wkv.convert.quantize import quantize
    from wkv.errors import InputError
    from wkv.evaluate.cost import compare, passage

    text = passage(args.text)
    report: dict[str, object] = {}

    def divergence(before: "Model", after: "Model") -> float:
        found = compare(before, after, text, tokens=args.tokens)
        show("choosing", 1, 1)
        return found.divergence * math.log(2)

    def accept(before: "Model", after: "Model", file: Path) -> bool:
        report.update(_report(args, before, after, text, show))
        report["file_bytes"] = [_size(before), file.stat().st_size]
        return not args.dry_run and _is_allowed(args, report)

    with _progress() as show:
        done = quantize(
            source,
            args.destination,
            to=args.to,
            calibrate=None if args.calibrate == "none" else args.calibrate or CALIBRATION,
            limit=None if limit is None else replace(limit, measure=divergence),
            overwrite=args.overwrite or args.dry_run,
            tokenizer=args.tokenizer,
            accept=accept,
            on_step=show,
        )
    report |= {
        "path": str(done.path),
        "kept": done.kept,
        "calibration_tokens": done.calibration_tokens,
        "int8_matrices": list(done.int8_matrices),
    }
    print(json.dumps(report) if args.json else _render(report))
    if args.max_loss is not None and report["bits_per_byte"] is None:
        raise InputError(
            "no tokenizer is known for this vocabulary, so bits per byte cannot be measured and "
            "--max-loss cannot be checked; nothing was saved, name a tokenizer with --tokenizer"
        )
    if not _is_allowed(args, report):
        raise InputError(
            f"{args.to} raises bits per byte by {_loss(report):.4f}, more than the "
            f"{args.max_loss:g} of --max-loss; nothing was saved"
        )
    if args.dry_run:
        notice("nothing was saved (--dry-run)")
    return 0


def _limit(args: argparse.Namespace) -> "Limit | None":
    """Return the limit of --bits or --max-kl, and set --to; wrong usage ends the program."""
    from wkv.convert.mixture import Limit
    from wkv.errors import InputError

    if args.bits is None and args.max_kl is None:
        if args.to is None:
            args.usage_error("the format is missing; give --to int8 or --to int4")
        return None
    args.to = args.to or "int4"
    limit = Limit(args.bits, args.max_kl)
    try:
        limit.check(args.to)
    except InputError as error:
        args.usage_error(str(error))
    return limit


def _count(text: str) -> int:
    """Parse an integer of at least 1; used by argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _is_allowed(args: argparse.Namespace, report: dict[str, object]) -> bool:
    """Return whether bits per byte rose by at most --max-loss."""
    return args.max_loss is None or _loss(report) <= args.max_loss


def _loss(report: dict[str, object]) -> float:
    """Return the increase in bits per byte, or infinity if it is not known."""
    bits = report["bits_per_byte"]
    if not isinstance(bits, (list, tuple)):
        return float("inf")
    return float(bits[1]) - float(bits[0])


def _size(model: "Model") -> int:
    """Return the file size of a model in bytes, including all shards."""
    from wkv.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(model.path)
    return sum(file.stat().st_size for file in checkpoint.shards or (checkpoint.path,))


def _report(
    args: argparse.Namespace,
    before: "Model",
    after: "Model",
    text: str,
    show: Callable[[str, int, int], None],
) -> dict[str, object]:
    """Measure both models and return the report."""
    from wkv.evaluate.cost import compare, decode_speeds, exercises, knows_exercises

    found: Comparison = compare(
        before,
        after,
        text,
        tokens=args.tokens,
        on_read=lambda done, total: show("reading", done, total),
    )
    count = EXERCISES if args.exercises is None else args.exercises
    right = None
    if count and knows_exercises(before):
        right = exercises(before, after, count, lambda done, total: show("exercises", done, total))
    show("speed", 1, 1)
    return {
        "strategies": [str(before.strategy), str(after.strategy)],
        "engines": [before.engine, after.engine],
        "tokens": found.tokens,
        "bits_per_byte": found.bits_per_byte,
        "bits_per_token": found.bits_per_token,
        "divergence": found.divergence,
        "largest_difference": found.largest_difference,
        "mean_difference": found.mean_difference,
        "same_choice": found.same_choice,
        "exercises": None if right is None else right[:2],
        "exercises_asked": None if right is None else right[2],
        "tokens_per_second": decode_speeds(before, after, text),
    }


def _render(report: dict[str, object]) -> str:
    """Format the report as a table and two sentences."""
    rows = [("", *map(str, _pair(report["strategies"])), "")]
    sizes = _pair(report["file_bytes"])
    rows.append(("file, MB", *(f"{size / 1e6:,.1f}" for size in sizes), _times(sizes)))
    speeds = _pair(report["tokens_per_second"])
    rows.append(("tokens/s", *(f"{speed:,.1f}" for speed in speeds), _times(speeds)))
    if report["bits_per_byte"] is not None:
        bits = _pair(report["bits_per_byte"])
        rows.append(("bits per byte", *(f"{b:.4f}" for b in bits), f"{bits[1] - bits[0]:+.4f}"))
    perplexity = tuple(2**bits for bits in _pair(report["bits_per_token"]))
    more = f"{perplexity[1] / perplexity[0] - 1:+.2%}"
    rows.append(("perplexity", *(f"{p:,.3f}" for p in perplexity), more))
    if report["exercises"] is not None:
        shares = _pair(report["exercises"])
        change = f"{100 * (shares[1] - shares[0]):+.1f} points"
        rows.append(("exercises right", *(f"{share:.1%}" for share in shares), change))
    lines = [f"{name:<16}{a:>14}{b:>14}{c:>16}".rstrip() for name, a, b, c in rows]
    of = "random ids" if report["bits_per_byte"] is None else "the text"
    lines += [
        f"Over {report['tokens']:,} tokens of {of}, the logits differ by at most "
        f"{report['largest_difference']:.3g} and by {report['mean_difference']:.3g} on average.",
        f"The KL divergence is {report['divergence']:.3g} bits per token. The most likely token is "
        f"the same for {report['same_choice']:.1%} of the tokens.",
    ]
    engines = _pair(report["engines"])
    if set(map(str, engines)) != {"native"}:
        lines.append(f"The speed is that of the {engines[1]} engine; see wkv doctor.")
    if report["calibration_tokens"]:
        lines.append(f"Int4 weights were calibrated on {report['calibration_tokens']:,} tokens.")
    if names := report["int8_matrices"]:
        assert isinstance(names, list)
        lines.append(f"These matrices are int8, all other large ones int4: {', '.join(names)}.")
    if report["kept"]:
        lines.append(f"{report['path']}: verified to be exact, and saved")
    return "\n".join(lines)


def _pair(value: object) -> tuple[float, float]:
    """Return a list of two values, before and after, as a tuple."""
    assert isinstance(value, (list, tuple))
    first, second = value
    return first, second


def _times(pair: tuple[float, float]) -> str:
    return f"{pair[1] / pair[0]:.2f} x"


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that shows the progress of a stage: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        printed: set[str] = set()

        def report(stage: str, done: int, total: int) -> None:
            line = f"{stage} {REPORTS * done // total * 100 // REPORTS} %"
            if line not in printed:
                printed.add(line)
                notice(line)

        yield report
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda stage, done, total: bar.update(
            task, description=stage, completed=done, total=total
        )
