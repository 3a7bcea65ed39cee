"""Talk to a model. Lines from a pipe are answered one by one; +help lists the chat's commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wkv.cli.notices import notice
from wkv.cli.options import SAMPLING, add_model, add_sampling, load_model, read_sampling

if TYPE_CHECKING:
    from wkv.chat import Conversation, Session
    from wkv.chat.language import Language
    from wkv.chat.prompt_files import Prompt
    from wkv.cli.screen import Screen
    from wkv.inference.model import Model

SUMMARY = "talk to a model"
PRESETS = ("chat", "chatrwkv", "creative", "precise", "reason", "exact")
LANGUAGES = {"en": "en", "zh": "zh", "ja": "ja", "english": "en", "chinese": "zh", "japanese": "ja"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `wkv chat`."""
    add_model(parser)
    add_sampling(parser, tell_defaults=False)  # they depend on the model
    parser.add_argument(
        "--max-tokens", type=int, metavar="N", help="longest reply (default: of the preset)"
    )
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="sampling values that are known to work (default: by the model)",
    )
    parser.add_argument(
        "--language",
        type=_language,
        default="en",
        metavar="en|zh|ja",
        help="of help and notices (default: en)",
    )
    parser.add_argument(
        "--chats", type=Path, metavar="DIR", help="folder of saved chats (default: ~/.wkv/chats)"
    )
    beginning = parser.add_mutually_exclusive_group()
    beginning.add_argument("--load", metavar="NAME", help="go on with a saved chat")
    beginning.add_argument(
        "--prompt", type=Path, metavar="FILE", help="begin with a prompt file (.py or .toml)"
    )
    beginning.add_argument("--system", metavar="TEXT", help="begin with a system text")
    beginning.add_argument(
        "--state", type=Path, metavar="FILE", help="begin with a state that wkv saved"
    )


def run(args: argparse.Namespace) -> int:
    """Answer messages until the input ends."""
    from wkv.cli.screen import ProgressBar, Screen

    session, opening = _session(args)
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
        except KeyboardInterrupt:  # between two pieces of work; nothing is lost by it
            if not sys.stdin.isatty():
                raise
        finally:
            if bar is not None:
                bar.close()
    return 0


def _answer(session: Session, screen: Screen, line: str) -> bool:
    """Do what a line asks for; False if the user leaves."""
    from wkv.chat import Leave, Notice, answer
    from wkv.errors import WKVError

    try:
        outcome = answer(session, line)
    except WKVError as error:
        screen.notice(f"wkv: {' '.join(str(error).split())}")
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


def _session(args: argparse.Namespace) -> tuple[Session, str]:
    """The model, the conversation and all else that the options ask for; and the opening text."""
    from wkv.chat import Session, Store, language_named, read_prompt

    language = language_named(args.language)
    prompt = read_prompt(args.prompt) if args.prompt else None  # before the model is loaded
    model = load_model(args)
    _ = model.tokenizer  # if there is none, it is said now
    store = Store(args.chats)
    if args.load:
        conversation, opening = store.load(args.load, model), ""
    else:
        conversation, opening = _new_conversation(args, model, language, prompt)
    seed = _apply(args, conversation)
    return Session(model, conversation, store, language, seed=seed), opening


def _new_conversation(
    args: argparse.Namespace, model: Model, language: Language, prompt: Prompt | None
) -> tuple[Conversation, str]:
    """A conversation that begins as the options say, or with the opening that the model gets."""
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
    conversation.past.clear()  # what the options asked for is not undone
    return conversation, opening


def _apply(args: argparse.Namespace, conversation: Conversation) -> int | None:
    """Set what the options say of replies; returns the seed, which is the session's."""
    from wkv.chat import Settings, preset_named

    if args.preset:
        conversation.settings = Settings.of(preset_named(args.preset))
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
    """The lines of a pipe; those that are not UTF-8 are refused."""
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            notice(f"wkv: {session.say('not_utf8', number=number, byte=error.start)}")
            continue
        if text:
            yield text


def _language(name: str) -> str:
    """The code of a language, for argparse."""
    if name.lower() not in LANGUAGES:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(LANGUAGES)}")
    return LANGUAGES[name.lower()]
