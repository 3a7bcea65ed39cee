"""Write a checkpoint with int8 or int4 weights, and report the loss before saving it.

The report compares the quantized model with the original: size, speed, KL divergence and unchanged
greedy tokens on a text, and right answers. The new file loads by memory mapping, and `auto` selects
the strategy it was made for.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wkv.cli.notices import notice
from wkv.cli.options import find_model

if TYPE_CHECKING:
    from wkv.cli.quantize_report import Report
    from wkv.convert.mixture import Limit
    from wkv.evaluate.questions import Question
    from wkv.inference.model import Model

Show = Callable[[str, int, int], None]
"""Shows the progress of a stage: its name, the number of finished parts and their total."""

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
        help="write int4, but store the matrices that lose most in int4 as int8, up to an average "
        "of B bits per weight (4.5 to 8.5)",
    )
    mixed.add_argument(
        "--max-kl",
        type=float,
        metavar="X",
        help="write int4, but store as few matrices as int8 as needed for a KL divergence of at "
        "most X nats per token; they are chosen on a part of the text that the report does not use "
        "(at 0.01, about 6 of 100 greedy tokens of the built-in model change)",
    )
    parser.add_argument(
        "--calibrate",
        metavar="FILE|none",
        help="text like those that the model will read; int4 weights are rounded so that its "
        "outputs change least on it (default: a text that comes with wkv; none: round each weight "
        "to the nearest value)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    parser.add_argument(
        "--dry-run", action="store_true", help="only report the loss, and do not save the file"
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="X",
        help="save the file only if bits per byte of the text rise by at most X",
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
        help="number of tokens of the text to measure the loss on (default: 1024)",
    )
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help='your own questions to ask both models: JSON lines such as {"prompt": "The capital of '
        'France is", "answer": "Paris"}',
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
    from wkv.evaluate.cost import compare, passage, text_ids, two_parts
    from wkv.evaluate.questions import read_questions

    text = passage(args.text)
    asked = read_questions(args.questions) if args.questions else []
    reports: list[Report] = []

    def behind(model: "Model") -> list[int]:
        return two_parts(model, text, args.tokens)[1]

    def divergence(before: "Model", after: "Model") -> float:
        found = compare(before, after, behind(before), partial(show, "choosing"))
        return found.kl.value

    def accept(before: "Model", after: "Model", file: Path) -> bool:
        ids = text_ids(before, text, args.tokens)
        if limit is not None:
            ids, _ = two_parts(before, text, args.tokens)
        reports.append(_report(args, (before, after), file, ids, asked, show))
        return not args.dry_run and _is_allowed(args, reports[0])

    with _progress() as show:
        done = quantize(
            source,
            args.destination,
            to=args.to,
            calibrate=None if args.calibrate == "none" else args.calibrate or CALIBRATION,
            limit=None if limit is None else replace(limit, measure=divergence, choose_on=behind),
            overwrite=args.overwrite or args.dry_run,
            tokenizer=args.tokenizer,
            accept=accept,
            on_step=show,
        )
    (report,) = reports
    print(json.dumps(report.to_json(done)) if args.json else report.render(done, args.max_kl))
    _check(args, report)
    if args.dry_run:
        notice("nothing was saved (--dry-run)")
    return 0


def _check(args: argparse.Namespace, report: "Report") -> None:
    """Raise an InputError if the loss is larger than --max-loss, or cannot be compared with it."""
    from wkv.errors import InputError

    if args.max_loss is not None and report.loss.bits_per_byte is None:
        raise InputError(
            "no tokenizer is known for this vocabulary, so bits per byte cannot be measured and "
            "--max-loss cannot be checked; nothing was saved, name a tokenizer with --tokenizer"
        )
    if not _is_allowed(args, report):
        raise InputError(
            f"{args.to} raises bits per byte by {report.bits_per_byte_added:.4f}, more than the "
            f"{args.max_loss:g} of --max-loss; nothing was saved, allow more, or use --bits or "
            "--to int8"
        )


def _limit(args: argparse.Namespace) -> "Limit | None":
    """Return the limit of --bits or --max-kl, and set --to; wrong usage ends the program."""
    from wkv.convert.mixture import Limit
    from wkv.errors import InputError

    if args.bits is None and args.max_kl is None:
        if args.to is None:
            args.usage_error("the format is missing; add --to int8 or --to int4")
        return None
    if args.to == "int8":
        args.usage_error(
            "--bits and --max-kl choose between int4 and int8 for each matrix, but --to int8 makes "
            "all of them int8; leave out --to"
        )
    args.to = "int4"
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


def _is_allowed(args: argparse.Namespace, report: "Report") -> bool:
    """Return whether bits per byte rose by at most --max-loss."""
    return args.max_loss is None or report.bits_per_byte_added <= args.max_loss


def _size(model: "Model") -> int:
    """Return the file size of a model in bytes, including all shards."""
    from wkv.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(model.path)
    return sum(file.stat().st_size for file in checkpoint.shards or (checkpoint.path,))


def _report(
    args: argparse.Namespace,
    models: "tuple[Model, Model]",
    file: Path,
    ids: Sequence[int],
    asked: "Sequence[Question]",
    show: Show,
) -> "Report":
    """Measure both models, the original and the quantized one in `file`."""
    from wkv.cli.quantize_report import Report
    from wkv.evaluate.cost import compare, decode_speeds, tokenizer_of
    from wkv.evaluate.exercises import knows_exercises, some_questions
    from wkv.evaluate.questions import compare_answers

    before, after = models
    loss = compare(*models, ids, partial(show, "reading"))
    count = EXERCISES if args.exercises is None else args.exercises
    exercises = questions = None
    if count and knows_exercises(before):
        exercises = compare_answers(*models, some_questions(count), partial(show, "exercises"))
    if asked:
        questions = compare_answers(*models, asked, partial(show, "questions"))
    show("speed", 1, 1)
    text = str(args.text) if args.text else "a short story that comes with wkv"
    return Report(
        strategies=(str(before.strategy), str(after.strategy)),
        engines=(before.engine, after.engine),
        file_bytes=(_size(before), file.stat().st_size),
        tokens_per_second=decode_speeds(*models, ids),
        text="random ids" if tokenizer_of(before) is None else text,
        is_calibration_text=bool(args.calibrate and args.text)
        and args.text.resolve() == Path(args.calibrate).resolve(),
        loss=loss,
        exercises=exercises,
        questions=questions,
    )


@contextmanager
def _progress() -> Iterator[Show]:
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
