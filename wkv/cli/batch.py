"""Answer all requests of a file, in the format of OpenAI's batch API, and write them to OUT.

IN contains one request per line, such as {"custom_id": "1", "url": "/v1/chat/completions",
"body": {"messages": [...]}}. Requests that OUT already answers are skipped, so an interrupted run
can be repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wkv.cli.notices import notice
from wkv.cli.options import (
    add_model,
    add_speculation,
    add_states,
    load_model,
    load_speculation,
    read_states,
)
from wkv.errors import InputError

ANY_NAME = "wkv"
"""The name of the model, if requests may contain any name."""

SUMMARY = "answer a file of requests without a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv batch` to the parser."""
    parser.add_argument(
        "input", type=Path, metavar="IN", help="file of requests, one JSON object per line"
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="file to append the answers to")
    add_model(parser, several=True)
    add_states(parser)
    add_speculation(parser)
    parser.add_argument(
        "--slots",
        type=int,
        default=32,
        metavar="N",
        help="number of requests to process at the same time (default: 32)",
    )
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="model name that requests must contain (default: accept any name)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the answers and return 1 if any of them is an error."""
    if args.slots < 1:
        args.usage_error("--slots must be 1 or more")
    from wkv.cli.serve import needs_serve

    with needs_serve():
        import asyncio

        from wkv.serve import batch_files
        from wkv.serve.app import create_app
        from wkv.serve.service import Limits, ServerSettings

    lines = batch_files.read_requests(args.input)
    finished = batch_files.finished_ids(args.output)
    if not args.output.parent.is_dir():
        raise InputError(
            f"{args.output}: the folder does not exist; create it, or name another output file"
        )
    left = [line for line in lines if line.custom_id not in finished]
    if len(left) < len(lines):
        notice(f"{len(lines) - len(left)} of {len(lines)} requests are already answered in OUT")
    if not left:
        return 0
    model = load_model(args)
    states = read_states(args, model)
    start = states.pop(None, None)
    named = {str(name): state for name, state in states.items()}
    settings = ServerSettings(args.name or ANY_NAME, states=named, start=start)
    if args.name is None:  # only one model is loaded, so the name of the model is ignored
        for line in left:
            _drop_model_name(line.body, {*named, *model.adapters})
    width = batch_files.REQUESTS_PER_SLOT * args.slots
    limits = Limits(slots=args.slots, queue=width)
    app = create_app(model, settings, limits, load_speculation(args, model))
    failed = 0
    with _progress(len(left)) as advance, args.output.open("a", encoding="utf-8") as out:

        def on_response(response: dict[str, Any]) -> None:
            nonlocal failed
            failed += response["error"] is not None
            advance()

        try:
            asyncio.run(batch_files.run(app, left, out, width, on_response))
        except KeyboardInterrupt:
            notice("interrupted; the answers so far are saved, run the same command to continue")
            raise
        except OSError as error:
            raise InputError(
                f"{args.output}: the answers could not be written ({error.strerror}); run the same "
                "command again to continue"
            ) from error
    notice(f"{len(left) - failed} answered, {failed} refused, in {args.output}")
    return 1 if failed else 0


def _drop_model_name(body: dict[str, Any], variants: set[str]) -> None:
    """Replace the name of the model in a request by that of the loaded one; a variant stays."""
    name = body.pop("model", None)
    variant = name.rpartition(":")[2] if isinstance(name, str) else None
    if variant in variants:
        body["model"] = f"{ANY_NAME}:{variant}"


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Yield a function that advances a progress bar; the bar is only shown on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("requests", total=total)
        yield lambda: bar.advance(task)
