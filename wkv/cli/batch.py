"""Answer a file of requests, as many at once as there are slots; in and out as OpenAI's batches.

A line of IN is {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": [...]}}.
What OUT holds already is not asked again, so the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wkv.cli.notices import notice
from wkv.cli.options import add_model, load_model

SUMMARY = "answer a file of requests offline"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv batch`."""
    parser.add_argument("input", type=Path, metavar="IN", help="requests, a JSON object a line")
    parser.add_argument("output", type=Path, metavar="OUT", help="answers are added to this file")
    add_model(parser)
    parser.add_argument("--slots", type=int, default=32, metavar="N", help="at once (default: 32)")
    parser.add_argument(
        "--name", metavar="NAME", help="the model's name in the requests; default: any"
    )


def run(args: argparse.Namespace) -> int:
    """Write the answers; 1 if any of them is an error."""
    if args.slots < 1:
        args.usage_error("--slots must be 1 or more")
    from wkv.cli.serve import needs_serve

    with needs_serve():
        import asyncio

        from wkv.serve import batch_files
        from wkv.serve.app import Limits, create_app
        from wkv.serve.service import Settings

    lines = batch_files.read_lines(args.input)
    done = batch_files.answered(args.output)
    if not args.output.parent.is_dir():
        from wkv.errors import InputError

        raise InputError(f"{args.output}: there is no such folder; make it, or give another file")
    left = [line for line in lines if line.custom_id not in done]
    if len(left) < len(lines):
        notice(f"{len(lines) - len(left)} of {len(lines)} requests were answered before")
    if not left:
        return 0
    model = load_model(args)
    for line in left:  # the file says which model was meant; here there is one
        if args.name is None:
            line.body.pop("model", None)
    width = batch_files.AHEAD * args.slots
    app = create_app(model, Settings(args.name or "wkv"), Limits(slots=args.slots, queue=width))
    failed = 0
    with _progress(len(left)) as advance, args.output.open("a", encoding="utf-8") as out:

        def told(answer: dict[str, Any]) -> None:
            nonlocal failed
            failed += answer["error"] is not None
            advance()

        try:
            asyncio.run(batch_files.run(app, left, out, width, told))
        except KeyboardInterrupt:
            notice(
                "interrupted; what was answered is kept, and the same command goes on from there"
            )
            raise
    notice(f"{len(left) - failed} answered, {failed} refused, in {args.output}")
    return 1 if failed else 0


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """What advances a bar, which is drawn on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("requests", total=total)
        yield lambda: bar.advance(task)
