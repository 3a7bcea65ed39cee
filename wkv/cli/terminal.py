"""A chat with somebody at a terminal: the greeting, and what is typed line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from wkv.chat import Session
from wkv.chat.session import FIRST_NAME
from wkv.cli.notices import notice
from wkv.cli.screen import Screen


def greet(session: Session, screen: Screen, is_built_in: bool, opening: str) -> None:
    """Say which model it is, how to get help, and what it was told already."""
    model = session.model
    config = model.config
    facts = {
        "name": session.say("built_in") if is_built_in else model.path.name,
        "generation": config.generation,
        "layers": config.n_layer,
        "width": config.n_embd,
        "strategy": model.strategy,
    }
    notice(session.say("model", **facts))
    notice(session.say("hint"))
    if opening.strip():
        screen.notice(f"\n{session.say('begins')}\n{opening.strip()}", is_aside=True)


def typed_lines(session: Session) -> Iterator[str]:
    """What the user types, until Ctrl-D."""
    ask = _asker(session)
    while True:
        print(file=sys.stderr)
        sign = "> " if session.name == FIRST_NAME else f"{session.name}> "
        try:
            text = ask(sign)
        except EOFError:
            return
        except KeyboardInterrupt:
            notice(session.say("hint"))
            continue
        if text.strip():
            yield text


def _asker(session: Session) -> Callable[[str], str]:
    """The line editor; plain `input` where prompt_toolkit is missing."""
    try:
        from wkv.cli.editor import Editor
    except ImportError:
        return input
    return Editor(session, Path.home() / ".wkv" / "history").ask
