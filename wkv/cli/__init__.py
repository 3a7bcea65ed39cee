"""The command line of wkv: `wkv COMMAND`. Each module of this package is one command.

A command module has SUMMARY, `add_arguments(parser)` and `run(args) -> int`. Its top level and
`add_arguments` import nothing heavy, so that `wkv --help` is fast. Data goes to stdout; notices and
progress go to stderr. Exit status 0 means success, 1 a failure (explained in one line), 2 wrong
usage.
"""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from wkv.errors import WKVError
from wkv.version import __version__

COMMANDS = (
    "chat",
    "serve",
    "batch",
    "generate",
    "decide",
    "info",
    "tokenize",
    "convert",
    "quantize",
    "merge",
    "verify",
    "eval",
    "bench",
    "train",
    "finetune",
    "models",
    "pull",
    "rm",
    "doctor",
)

SYNONYMS = {
    "list": "models",
    "ls": "models",
    "run": "chat",
    "talk": "chat",
    "complete": "generate",
    "ask": "decide",
    "classify": "decide",
    "completion": "generate",
    "download": "pull",
    "get": "pull",
    "fetch": "pull",
    "install": "pull",
    "remove": "rm",
    "delete": "rm",
    "uninstall": "rm",
    "server": "serve",
    "start": "serve",
    "show": "info",
    "inspect": "info",
    "encode": "tokenize",
    "decode": "tokenize --decode",
    "test": "eval",
    "evaluate": "eval",
    "export": "convert",
    "fuse": "merge",
    "check": "doctor",
    "compare": "verify",
    "diff": "verify",
    "version": "--version",
}
"""Names of commands in other programs, and the command of wkv that does the same."""


OPTION_SYNONYMS = {
    "-n": "--max-tokens",
    "--n-predict": "--max-tokens",
    "--num-predict": "--max-tokens",
    "--max-new-tokens": "--max-tokens",
    "--length": "--max-tokens",
    "-p": "--prompt",
    "-t": "--threads",
    "--device": "--strategy",
    "--dtype": "--strategy",
    "--precision": "--strategy",
    "--lora": "--adapter",
    "--lang": "--language",
    "--key": "--api-key",
    "--parallel": "--slots",
    "--cors": "--allow-origin",
    "-m": "MODEL",
    "--model": "MODEL",
    "--model-path": "MODEL",
}
"""Options of other programs, and the option of wkv with the same meaning.

A name in capitals is an argument without an option.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    _prepare_streams()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["help"]:  # `wkv help` and `wkv help chat`
        argv = [*argv[1:2], "--help"]
    parser = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    if all(word.startswith("-") for word in argv) and not parser.accepts(argv):
        parser.error(_about_unknown(parser, argv))
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        args.usage_error(_about_unknown(args.usage_error.__self__, unknown))
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


class _Parser(argparse.ArgumentParser):
    """The parser of the whole command line, which suggests a command for an unknown one."""

    def accepts(self, words: Sequence[str]) -> bool:
        """Return whether these words are options, which may be abbreviated."""
        names = self._option_string_actions
        return all(any(name.startswith(word) for name in names) for word in words)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with status 2."""
        wrong = re.search(r"invalid choice: '([^']*)'", message)
        super().error(_about_command(wrong[1]) if wrong else message)


def _about_command(name: str) -> str:
    """Return the message about an unknown command."""
    near = SYNONYMS.get(name.lower()) or next(iter(get_close_matches(name.lower(), COMMANDS)), None)
    if near is None and (":" in name or "/" in name or Path(name).exists()):
        return f"{name} is not a command; to chat with a model, run: wkv chat {name}"
    hint = f"did you mean {near}?" if near else "wkv --help lists the commands"
    return f"there is no command {name!r}; {hint}"


def _about_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    """Return the message about arguments that a command does not have."""
    message = f"unrecognized arguments: {' '.join(unknown)}"
    names = [name for action in parser._actions for name in action.option_strings]
    places = [str(action.metavar) for action in parser._actions if not action.option_strings]
    wrong = next((word.partition("=")[0] for word in unknown if word.startswith("-")), "")
    meant = OPTION_SYNONYMS.get(wrong)
    if meant in places:
        return f"{message}; give {meant} without an option: {parser.prog} {meant}"
    near = [meant] if meant in names else get_close_matches(wrong, names, n=1, cutoff=0.7)
    return f"{message}; did you mean {near[0]}?" if near else message


def _prepare_streams() -> None:
    """Set the standard streams to UTF-8, and replace closed streams with the null device."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _parser() -> _Parser:
    parser = _Parser(
        prog="wkv",
        description="Run, convert, train and evaluate RWKV language models.",
        epilog="`wkv COMMAND --help` describes a command. Without a MODEL, commands use a small "
        "model that is built in; try `wkv chat`.",
    )
    parser.add_argument("--version", action="version", version=f"wkv {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback when an error occurs"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
    for name in COMMANDS:
        module = import_module(f"wkv.cli.{name}")
        sub = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        sub.set_defaults(usage_error=sub.error)
        module.add_arguments(sub)
    return parser
