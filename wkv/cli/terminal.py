"""The terminal side of `wkv chat`: the greeting, and reading input line by line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from wkv.chat import Session
from wkv.chat.session import FIRST_NAME
from wkv.cli.notices import notice
from wkv.cli.screen import Screen


def greet(session: Session, screen: Screen, is_built_in: bool, opening: str) -> None:
    """Print the model, how to get help, and the opening text that the model has read."""
    model = session.model
    config = model.config
    facts = {
        "name": session.say("built_in") if is_built_in else model.path.name,
        "generation": config.generation,
        "layers": config.n_layer,
        "width": config.n_embd,
        "strategy": model.strategy,
    }
    screen.notice(session.say("model", **facts))
    screen.notice(session.say("hint"))
    if opening.strip():
        screen.notice(f"\n{session.say('begins')}\n{opening.strip()}", is_aside=True)


def typed_lines(session: Session) -> Iterator[str]:
    """Yield the lines that the user types, until Ctrl-D."""
    ask = _line_reader(session)
    while True:
        print(file=sys.stderr)
        prompt = "> " if session.name == FIRST_NAME else f"{session.name}> "
        try:
            text = ask(prompt)
        except EOFError:
            return
        except KeyboardInterrupt:
            notice(session.say("hint"))
            continue
        if text.strip():
            yield text


def _line_reader(session: Session) -> Callable[[str], str]:
    """Return the line editor's `ask`, or plain `input` if prompt_toolkit is not installed."""
    try:
        from wkv.cli.editor import Editor
    except ImportError:
        return input
    return Editor(session, Path.home() / ".wkv" / "history").ask
