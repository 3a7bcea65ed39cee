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

COMMANDS = ("chat", "generate", "info", "tokenize", "train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    args = _parser().parse_args(argv)
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
    except (WKVError, OSError, MemoryError) as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        print(f"wkv: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return int(status)


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
        module.add_arguments(sub)
    return parser
