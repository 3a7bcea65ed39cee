"""Chat with a model. Type +help for the commands. Piped input is answered line by line."""

from __future__ import annotations

import argparse
import locale
import sys
import warnings
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from wkv.cli.notices import notice
from wkv.cli.options import (
    SAMPLING,
    add_model,
    add_sampling,
    add_speculation,
    load_model,
    load_speculation,
    read_sampling,
    token_limit,
)
from wkv.errors import InputError
from wkv.files import BYTE_ORDER_MARKS, decode_text

if TYPE_CHECKING:
    from wkv.chat import Conversation, Session
    from wkv.chat.language import Language
    from wkv.chat.prompt_files import OpeningPrompt
    from wkv.cli.screen import Screen
    from wkv.inference.model import Model

SUMMARY = "chat with a model in the terminal"
PRESETS = ("chat", "chatrwkv", "creative", "precise", "reason", "exact")
LOCALE_VARIABLES = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
"""The variables that determine the language of messages, by priority."""

WIDE_MARKS = tuple(mark for mark in BYTE_ORDER_MARKS if mark != BOM_UTF8)
"""Byte order marks of UTF-16 and UTF-32."""

LANGUAGES = {"en": "en", "zh": "zh", "ja": "ja", "english": "en", "chinese": "zh", "japanese": "ja"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `wkv chat` to the parser."""
    add_model(parser)
    add_sampling(parser, show_defaults=False)  # the defaults depend on the model
    add_speculation(parser)
    parser.add_argument(
        "--max-tokens",
        type=token_limit,
        metavar="N",
        help="largest number of tokens of a reply; -1: no limit (default: that of the preset)",
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="use recommended sampling values (default: those for this model)",
    )
    parser.add_argument(
        "--language",
        type=_language,
        metavar="en|zh|ja",
        help="language of help and messages (default: that of the system, if it is one of these)",
    )
    parser.add_argument(
        "--chats",
        type=Path,
        metavar="DIR",
        help="folder for saved chats (default: ~/.wkv/chats)",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--load", metavar="NAME", help="continue a saved chat")
    start.add_argument(
        "--prompt", type=Path, metavar="FILE", help="start from a prompt file (.py or .toml)"
    )
    start.add_argument("--system", metavar="TEXT", help="start with this system prompt")
    start.add_argument(
        "--state", type=Path, metavar="FILE", help="start from a saved or tuned state"
    )


def run(args: argparse.Namespace) -> int:
    """Answer messages until the input ends."""
    from wkv.chat.language import language_named
    from wkv.cli.screen import ProgressBar, Screen
    from wkv.errors import WKVError

    language = language_named(args.language or _system_language())
    try:
        session, opening = _session(args, language)
    except WKVError as error:
        raise type(error)(language.error(error)) from error
    screen = Screen()
    bar = ProgressBar(session.say("reading")) if sys.stderr.isatty() else None
    session.progress = bar
    if sys.stdin.isatty():
        from wkv.cli.terminal import greet, typed_lines

        greet(session, screen, args.model is None, opening)
        lines = typed_lines(session)
    else:
        lines = _piped_lines(session)
    for line in lines:
        try:
            if not _answer(session, screen, line):
                break
        except KeyboardInterrupt:  # it arrived while nothing was running, so nothing is lost
            if not sys.stdin.isatty():
                raise
        finally:
            if bar is not None:
                bar.close()
    return 0


def _answer(session: Session, screen: Screen, line: str) -> bool:
    """Handle one line of input and return False if the user leaves."""
    from wkv.chat import Leave, Notice, answer
    from wkv.errors import WKVError

    try:
        outcome = answer(session, line)
    except WKVError as error:
        screen.notice(f"wkv: {session.language.error(error)}")
        return True
    except KeyboardInterrupt:
        screen.notice(session.say("stopped"), is_aside=True)
        return True
    match outcome:
        case Leave():
            return False
        case Notice(text=text):
            screen.notice(text)
        case reply:
            screen.show(session, reply)
    return True


def _session(args: argparse.Namespace, language: Language) -> tuple[Session, str]:
    """Return the session that the options describe, and its opening text."""
    from wkv.chat import ChatStore, Session, read_prompt

    prompt = read_prompt(args.prompt) if args.prompt else None  # before the model is loaded
    model = load_model(args)
    _ = model.tokenizer  # raises now, rather than at the first message, if none is known
    speculation = load_speculation(args, model)
    store = ChatStore(args.chats)
    if args.load:
        conversation, opening = store.load(args.load, model), ""
    else:
        conversation, opening = _new_conversation(args, model, language, prompt)
    conversation.speculation = speculation
    seed = _apply(args, conversation)
    return Session(model, conversation, store, language, seed=seed), opening


def _new_conversation(
    args: argparse.Namespace, model: Model, language: Language, prompt: OpeningPrompt | None
) -> tuple[Conversation, str]:
    """Return a conversation that starts as the options say, or with the model's default opening."""
    from wkv.chat import Conversation
    from wkv.models.state import State
    from wkv.prompting.presets import is_built_in

    conversation = Conversation(model)
    opening = ""
    if args.system is not None:
        conversation.system(args.system)
        opening = conversation.now.template.system(args.system)
    elif args.state is not None:
        conversation.begin_from(State.load(args.state, model))
    else:
        if prompt is None and not is_built_in(model):
            prompt = language.prompt(conversation.now.template)
        if prompt is not None:
            conversation.begin(prompt)
            opening = prompt.text
    conversation.past.clear()  # +undo must not remove what the options set up
    return conversation, opening


def _apply(args: argparse.Namespace, conversation: Conversation) -> int | None:
    """Apply the sampling options to the conversation and return the seed for the session."""
    from wkv.chat import ChatSettings, preset_named

    if args.preset:
        conversation.settings = ChatSettings.of(preset_named(args.preset))
    settings = conversation.settings
    sampling = read_sampling(args, settings.sampling)
    if any(getattr(args, name) is not None for name in SAMPLING if name != "seed"):
        settings = replace(settings, prose=None)
    longest = settings.max_tokens if args.max_tokens is None else args.max_tokens
    conversation.settings = replace(
        settings, sampling=replace(sampling, seed=None), max_tokens=longest
    )
    return sampling.seed


def _piped_lines(session: Session) -> Iterator[str]:
    """Yield the lines of piped input, and print a notice for those that are not UTF-8."""
    for number, line in enumerate(_encoded_lines(sys.stdin.buffer), start=1):
        try:
            lines = _decoded(line).split("\n")
        except InputError:
            notice(f"wkv: {session.say('not_utf8', number=number)}")
            continue
        yield from filter(None, map(str.strip, lines))


def _encoded_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream as they arrive; UTF-16 and UTF-32 as one piece at the end."""
    first = stream.readline()
    if first.startswith(WIDE_MARKS):
        text = first + stream.read()
        yield from [text] if b"\0" in text else text.splitlines()
        return
    yield first
    yield from stream


def _decoded(line: bytes) -> str:
    """Decode a line; UTF-16 and UTF-32 contain zero bytes, in a line end at least."""
    if line.startswith(WIDE_MARKS) and b"\0" not in line:
        raise InputError("this is not UTF-8 text")
    return decode_text(line, "stdin")


def _system_language() -> str:
    """Return the code of the system's language, or "en" if the chat does not have it."""
    default = getattr(locale, "getdefaultlocale", None)  # deprecated: it may disappear
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = default(LOCALE_VARIABLES) if default else locale.getlocale()
    code = (found[0] or "en")[:2].lower()
    return code if code in LANGUAGES else "en"


def _language(name: str) -> str:
    """Return the code of a language name; used by argparse."""
    if name.lower() not in LANGUAGES:
        raise argparse.ArgumentTypeError(f"{name!r} is unknown; expected {', '.join(LANGUAGES)}")
    return LANGUAGES[name.lower()]
