"""Continue a text, and print each part of it as soon as it is generated.

The text is the value of --prompt, or what is piped to stdin.
"""

import argparse
import json
import os
import sys
from itertools import chain

from wkv.cli.notices import notice, slow_step
from wkv.cli.options import (
    add_model,
    add_sampling,
    add_speculation,
    load_model,
    load_speculation,
    read_sampling,
    token_limit,
)
from wkv.errors import InputError
from wkv.files import decode_text

SUMMARY = "continue a text"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv generate` to the parser."""
    add_model(parser)
    parser.add_argument("--prompt", metavar="TEXT", help="text to continue (default: read stdin)")
    parser.add_argument(
        "--max-tokens",
        type=token_limit,
        default=256,
        metavar="N",
        help="largest number of tokens to generate; -1: no limit (default: 256)",
    )
    parser.add_argument(
        "--state", metavar="FILE", help="continue from a saved state, or begin with a tuned state"
    )
    add_sampling(parser)
    add_speculation(parser)
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop before this text (write a newline as $'\\n' in a shell); may be repeated",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with text, token_ids and finish_reason",
    )


def run(args: argparse.Namespace) -> int:
    """Generate a continuation of the prompt and print it."""
    if args.prompt is None and sys.stdin.isatty():
        args.usage_error("there is no prompt; give --prompt TEXT, or pipe a text to stdin")
    prompt = _prompt(sys.stdin.buffer.read() if args.prompt is None else os.fsencode(args.prompt))

    from wkv.inference.sequence import check_limits
    from wkv.inference.stream import stream
    from wkv.models.state import State

    sampling = read_sampling(args)
    check_limits(args.max_tokens, args.stop)  # before the model is loaded
    model = load_model(args)
    state = None if args.state is None else State.load(args.state, model)
    pieces = stream(
        model,
        prompt,
        sampling=sampling,
        max_tokens=args.max_tokens,
        stop=args.stop,
        state=state,
        speculate=load_speculation(args, model) or "off",
    )
    try:
        with slow_step("reading the prompt"):
            first = next(pieces, "")
        for piece in chain([first], pieces):
            if not args.json:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        rest = pieces.interrupt()
        if not args.json:
            print(rest, end="", flush=True)
    done = pieces.result
    if args.json:
        fields = ("text", "token_ids", "finish_reason")
        print(json.dumps({name: getattr(done, name) for name in fields}, ensure_ascii=False))
    elif sys.stdout.isatty():
        print()
    if sys.stderr.isatty() and done.timings.decode_seconds:
        rate = len(done.token_ids) / done.timings.decode_seconds
        reason = {"length": "stopped at --max-tokens"}.get(done.finish_reason, done.finish_reason)
        each = f", {done.drafts.tokens_per_pass:.2f} per pass" if done.drafts.drafted else ""
        notice(f"[{len(done.token_ids)} tokens, {rate:.1f} per second{each}, {reason}]")
    return 0


def _prompt(data: bytes) -> str | bytes:
    """Return a prompt as text; bytes of an unknown encoding are passed to the model unchanged."""
    try:
        return decode_text(data, "the prompt") or data
    except InputError:
        return data
