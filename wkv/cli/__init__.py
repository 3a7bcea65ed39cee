"""The command line: `wkv COMMAND`. A command is a file here, imported when it is needed.

A command file has SUMMARY, `add_arguments(parser)`, which imports nothing heavy, and
`run(args) -> int`. Data goes to stdout, notices and progress to stderr. Exit 0 is done, 1 failed
with one line of reason, 2 wrong usage.
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
    """Run a command line; returns the exit status."""
    _prepare_streams()
    args, unknown = _parser().parse_known_args(argv)
    if unknown:
        args.usage_error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        status = import_module(f"wkv.cli.{args.command}").run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except Exception as error:  # the last stop: a user gets a line, whatever went wrong
        if args.debug:
            traceback.print_exc()
        print(f"wkv: {_told(error)}", file=sys.stderr)
        return 1
    return int(status)


def _told(error: Exception) -> str:
    """An error in one line. Our own say all there is; others also say what they are."""
    text = " ".join(str(error).split())
    if isinstance(error, (WKVError, OSError)) and text:
        return text
    return f"{type(error).__name__}: {text[:300]} (--debug shows where)"


def _prepare_streams() -> None:
    """Make the standard streams UTF-8, and give those that are closed somewhere to go."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wkv", description="The toolkit for RWKV language models."
    )
    parser.add_argument("--version", action="version", version=f"wkv {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
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
