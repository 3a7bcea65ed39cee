"""The command line of wkv: `wkv COMMAND`. Each module of this package is one command.

A command module has SUMMARY, `add_arguments(parser)` and `run(args) -> int`. Its top level and
`add_arguments` import nothing heavy, so that `wkv --help` is fast. Data goes to stdout; notices and
progress go to stderr. Exit status 0 means success, 1 a failure (explained in one line), 2 wrong
usage.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from wkv.errors import WKVError
from wkv.version import __version__

COMMANDS = (
    "chat",
    "serve",
    "batch",
    "generate",
    "info",
    "tokenize",
    "convert",
    "quantize",
    "eval",
    "bench",
    "train",
    "models",
    "pull",
    "doctor",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    _prepare_streams()
    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        args.usage_error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status = import_module(f"wkv.cli.{args.command}").run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output closed the pipe. Without this, Python would report a second
        # error when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except Exception as error:  # users get one line instead of a traceback, whatever went wrong
        if args.debug:
            traceback.print_exc()
        print(f"wkv: {_in_one_line(error)}", file=sys.stderr)
        return 1
    return int(status)


def _in_one_line(error: Exception) -> str:
    """Format an error as one line, with the class name unless it is one of wkv's own errors."""
    text = " ".join(str(error).split())
    if isinstance(error, (WKVError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text[:300]} (--debug shows where)"


def _prepare_streams() -> None:
    """Set the standard streams to UTF-8, and replace closed streams with the null device."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wkv", description="Run, convert, train and evaluate RWKV language models."
    )
    parser.add_argument("--version", action="version", version=f"wkv {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback when an error occurs"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"wkv.cli.{name}")
        sub = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        sub.set_defaults(usage_error=sub.error)
        module.add_arguments(sub)
    return parser
