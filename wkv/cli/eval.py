"""Evaluate a model on lm-eval tasks, or on LAMBADA with the protocol of RWKV's own results."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wkv.cli.notices import notice
from wkv.cli.options import add_model, add_speculation, load_model, load_speculation

if TYPE_CHECKING:
    from wkv.evaluate.documents import Documents
    from wkv.evaluate.lambada import Measurement
    from wkv.evaluate.results_file import ResultFile
    from wkv.inference.model import Model

SUMMARY = "evaluate a model on LAMBADA or on lm-eval tasks"

USAGE = """wkv eval lambada [MODEL] [--against MODEL] [options]
       wkv eval [MODEL] --tasks NAME,NAME [options]"""

ONLY_LAMBADA = ("against", "data", "resume")
ONLY_TASKS = ("num_fewshot", "apply_chat_template", "include_path", "draft")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv eval` to the parser."""
    parser.usage = USAGE
    parser.add_argument(
        "what",
        nargs="?",
        metavar="lambada",
        help="measure how well the last word of 5,153 passages is predicted",
    )
    add_model(parser)
    _allow_positionals_after_options(parser)
    parser.add_argument("--limit", type=_count, metavar="N", help="use only the first N documents")
    parser.add_argument(
        "--batch-size",
        type=_count,
        default=8,
        metavar="N",
        help="number of documents to process at the same time (default: 8)",
    )
    parser.add_argument(
        "--begin",
        choices=("auto", "0", "none"),
        default="auto",
        help="token id to read before each text (default: auto, which reads 0 for RWKV-7 World "
        "models and nothing for others)",
    )
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="begin each text from this tuned state of MODEL, instead of the empty state",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    lambada = parser.add_argument_group("lambada")
    lambada.add_argument(
        "--against", metavar="MODEL", help="also measure this model, and print the difference"
    )
    lambada.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help='documents as lines of {"text": ...} (default: LAMBADA from the hub)',
    )
    lambada.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="save the results in FILE, and skip documents whose results it contains",
    )
    tasks = parser.add_argument_group("lm-eval")
    tasks.add_argument(
        "--tasks", metavar="NAME,NAME", help="tasks, groups or tags of lm_eval to run"
    )
    add_speculation(tasks)
    tasks.add_argument(
        "--num-fewshot", type=int, metavar="N", help="number of examples before each question"
    )
    tasks.add_argument(
        "--apply-chat-template",
        action="store_true",
        help="write each question as the message of a user in a chat",
    )
    tasks.add_argument(
        "--include-path", type=Path, metavar="DIR", help="folder with your own task definitions"
    )


def run(args: argparse.Namespace) -> int:
    """Run the evaluation and print the results."""
    if args.tasks is None:
        if args.what != "lambada":
            args.usage_error("nothing to evaluate; give lambada, or --tasks NAME,NAME")
        _reject(args, ONLY_TASKS, "can only be used with --tasks")
        return _run_lambada(args)
    if args.what == "lambada" or args.model is not None:
        args.usage_error("with --tasks, MODEL must be the only positional argument")
    _reject(args, ONLY_LAMBADA, "can only be used with lambada")
    args.model = args.what
    return _run_tasks(args)


def _reject(args: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Exit with a usage error if one of the options was given."""
    for name in names:
        given = getattr(args, name)
        if given is not None and given is not False:
            args.usage_error(f"--{name.replace('_', '-')} {reason}")


def _count(text: str) -> int:
    """Parse an integer of at least 1; used by argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 1 or more")
    return int(text)


def _allow_positionals_after_options(parser: argparse.ArgumentParser) -> None:
    """Make the parser accept MODEL after an option.

    Before Python 3.13, argparse ignores a second positional argument with `nargs="?"` there.
    """
    parse = parser.parse_known_args

    def parse_anywhere(args: Any = None, namespace: Any = None) -> Any:
        known, rest = parse(args, namespace)
        if rest and not rest[0].startswith("-") and known.model is None:
            known.model = rest.pop(0)
        return known, rest

    parser.parse_known_args = parse_anywhere  # type: ignore[method-assign]


def _run_lambada(args: argparse.Namespace) -> int:
    """Measure one model, or two models on the same documents."""
    from wkv.evaluate.documents import read_documents

    # Before PyTorch is imported, so that a mistyped file name is reported without delay.
    documents = read_documents(args.data)
    models = [_load(args)]
    if args.against is not None:  # the adapter and the state are for MODEL
        other = {"model": args.against, "adapter": None, "alpha": None}
        models.append(load_model(argparse.Namespace(**vars(args) | other)))

    from wkv.evaluate.lambada import measure
    from wkv.evaluate.peak_memory import peak_bytes

    results = _result_file(args, models, documents)
    texts = documents.texts[: args.limit]
    if len(models) == 2 and not args.json and not sys.stdout.isatty():
        notice("columns: documents; ppl and acc of MODEL, of --against, and their difference")
    lines: list[dict[str, object]] = []
    totals: tuple[Measurement, ...] = ()
    with _bar(len(texts) * len(models)) as on_scored:
        for totals in measure(
            models,
            texts,
            begin=args.begin,
            batch_size=args.batch_size,
            results=results,
            on_scored=on_scored,
        ):
            lines.append(
                {
                    "count": totals[0].count,
                    "ppl": [_finite(total.ppl) for total in totals],
                    "acc": [total.acc for total in totals],
                    "peak_memory_bytes": peak_bytes(),
                }
            )
            if not args.json:
                print(_in_words(totals) if sys.stdout.isatty() else _render(totals), flush=True)
    if args.json:
        print(json.dumps(_report(args, models, documents, totals, lines), ensure_ascii=False))
    return 0


def _load(args: argparse.Namespace) -> "Model":
    """Load the model; its texts begin from the state of --state."""
    from wkv.models.state import State

    model = load_model(args)
    return model if args.state is None else model.starting_from(State.load(args.state, model))


def _render(totals: Sequence["Measurement"]) -> str:
    """Format a line of results: count, ppl and acc; for two models both, and their difference."""
    words = [f"{totals[0].count}", *(f"{total.ppl:.2f} {total.acc:.2f}" for total in totals)]
    if len(totals) == 2:
        ours, theirs = totals
        words.append(f"{ours.ppl - theirs.ppl:+.2f} {ours.acc - theirs.acc:+.2f}")
    return " ".join(words)


def _in_words(totals: Sequence["Measurement"]) -> str:
    """Format the same line for a terminal."""
    ppl = " and ".join(f"{total.ppl:.2f}" for total in totals)
    acc = " and ".join(f"{total.acc:.2f} %" for total in totals)
    if len(totals) == 2:
        ours, theirs = totals
        ppl += f" (difference {ours.ppl - theirs.ppl:+.2f})"
        acc += f" (difference {ours.acc - theirs.acc:+.2f})"
    return f"{totals[0].count} documents: perplexity {ppl}, accuracy {acc}"


def _facts(model: "Model", begin: str) -> dict[str, object]:
    """Return the properties that distinguish the results of one model from another's."""
    from wkv.evaluate.lambada import begin_ids

    facts: dict[str, object] = {
        "identity": model.identity,
        "generation": model.config.generation,
        "strategy": str(model.strategy),
        "tokenizer": model.tokenizer.name,
        "begin": begin_ids(model, begin),
    }
    return facts if model.start is None else facts | {"state": model.start.digest}


def _result_file(
    args: argparse.Namespace, models: Sequence["Model"], documents: "Documents"
) -> "ResultFile | None":
    """Open the result file of --resume, if it was given."""
    if args.resume is None:
        return None
    from wkv.evaluate.results_file import ResultFile

    header = {
        "task": "lambada",
        "data": documents.sha256,
        "models": [_facts(model, args.begin) for model in models],
    }
    return ResultFile(args.resume, header)


def _report(
    args: argparse.Namespace,
    models: Sequence["Model"],
    documents: "Documents",
    totals: Sequence["Measurement"],
    lines: Sequence[Mapping[str, object]],
) -> dict[str, object]:
    """Return the report that --json prints."""
    from wkv.evaluate.peak_memory import peak_bytes, peak_gpu_bytes

    measured = [
        {
            "model": str(model.path),
            **_facts(model, args.begin),
            "count": total.count,
            "ppl": _finite(total.ppl),
            "acc": total.acc,
            "seconds": total.seconds,
            "tokens": total.tokens,
            "tokens_per_second": total.tokens / total.seconds if total.seconds else None,
        }
        for model, total in zip(models, totals, strict=True)
    ]
    report: dict[str, object] = {
        "task": "lambada",
        "models": measured,
        "data": {"file": str(documents.path), "sha256": documents.sha256},
        "begin": args.begin,
        "batch_size": args.batch_size,
        "limit": args.limit,
        "peak_memory_bytes": peak_bytes(),
        "peak_gpu_memory_bytes": peak_gpu_bytes(),
        "lines": lines,
    }
    if len(totals) == 2:
        ours, theirs = totals
        ppl, acc = _finite(ours.ppl - theirs.ppl), ours.acc - theirs.acc
        report["difference"] = {"ppl": ppl, "acc": acc}
    return report


def _finite(value: float) -> float | None:
    """Return the number, or None if it is infinite or NaN, which JSON cannot represent."""
    return value if math.isfinite(value) else None


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances a progress bar; the bar is only shown on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # otherwise rich would write piped lines to stderr
    ) as bar:
        task = bar.add_task("lambada", total=total)
        yield lambda count: bar.advance(task, count)


def _run_tasks(args: argparse.Namespace) -> int:
    """Run the lm-eval tasks and print their results."""
    from wkv.evaluate.lm_eval_tasks import check_installed

    check_installed()
    model = _load(args)

    from wkv.evaluate.lm_eval_tasks import run_tasks, table_of
    from wkv.prompting.template import template_for

    results = run_tasks(
        model,
        [name.strip() for name in args.tasks.split(",") if name.strip()],
        limit=args.limit,
        batch_size=args.batch_size,
        num_fewshot=args.num_fewshot,
        begin=args.begin,
        chat=template_for(model) if args.apply_chat_template else None,
        include_path=args.include_path,
        speculate=load_speculation(args, model) or "off",
    )
    if args.json:
        keys = ("results", "groups", "n-shot", "versions", "n-samples", "higher_is_better")
        report = {key: results[key] for key in keys if key in results}
        facts = {"model": str(model.path), **_facts(model, args.begin), "limit": args.limit}
        print(json.dumps(facts | report, ensure_ascii=False, default=str))
    else:
        print(table_of(results))
    return 0
