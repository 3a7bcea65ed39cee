"""The line editor of the chat, made of prompt_toolkit; imported when somebody types.

Enter sends, Alt+Enter (or Esc, Enter) begins a new line, pasted lines stay lines, Ctrl-C clears
what was typed, Ctrl-D on an empty line leaves.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.shortcuts import CompleteStyle

from wkv.chat import COMMANDS, PRESETS, Session
from wkv.chat.command_handlers import AMOUNTS
from wkv.chat.settings import KEYS

MENU_LINES = 6
"""Lines kept free below the prompt for the menu of completions."""


class Editor:
    """Asks for one message after another.

    Attributes:
        session: whose commands and chats are completed.
    """

    def __init__(self, session: Session, history: Path, output: Output | None = None) -> None:
        self.session = session
        self._prompt: PromptSession[str] = PromptSession(
            history=History(history),
            completer=ChatCompleter(session),
            complete_style=CompleteStyle.COLUMN,
            complete_while_typing=True,
            reserve_space_for_menu=MENU_LINES,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=lambda width, number, wrapped: "." * (width - 1) + " ",
            output=output or _terminal(),
        )

    def ask(self, sign: str) -> str:
        """What is typed after a sign.

        Raises:
            EOFError: for Ctrl-D. KeyboardInterrupt: for Ctrl-C on an empty line.
        """
        return self._prompt.prompt(sign)


class History(FileHistory):
    """Lines of earlier chats, in a file that is made when the first line is kept, if it can be."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Earlier lines, the newest first; none if they cannot be read."""
        with suppress(OSError):
            yield from super().load_history_strings()

    def store_string(self, string: str) -> None:
        """Keep a line, if the folder can be written."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            super().store_string(string)


class ChatCompleter(Completer):
    """Completes commands, and what they take: files, saved chats, settings."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Completions of a line that begins with `+`."""
        line = document.text_before_cursor
        if not line.startswith("+") or "\n" in line:
            return
        name, blank, argument = line.partition(" ")
        if not blank:
            yield from self._commands(name)
            return
        command = COMMANDS.get(name.lower())
        if command is None or not command.argument:
            return
        if command.argument == "path":
            yield from self._paths.get_completions(Document(argument), complete_event)
            return
        for word in self._words(command.name, command.argument, argument):
            if word.startswith(argument) and word != argument:
                yield Completion(word, -len(argument))

    def _commands(self, typed: str) -> Iterable[Completion]:
        """Commands that begin so, with their help."""
        for name in COMMANDS:
            if name.startswith(typed.lower()):
                yield Completion(name, -len(typed), display_meta=self._session.language.help[name])

    def _words(self, command: str, kind: str, typed: str) -> Iterable[str]:
        """What an argument may be."""
        if kind == "name":
            saved = self._session.store.list(self._session.model).names
            return sorted({*saved, *self._session.others})
        if kind == "setting":
            if typed.startswith("preset "):
                return [f"preset {name}" for name in PRESETS]
            return [f"{key} " for key in KEYS]
        if kind == "amount":
            return [amount for amount in AMOUNTS if amount]
        if kind == "command":
            return [name.removeprefix("+") for name in COMMANDS if name.strip("+")]
        return []


def _terminal() -> Output | None:
    """Where the line is shown if stdout is no terminal; None lets prompt_toolkit look at TERM."""
    return None if sys.stdout.isatty() else create_output(always_prefer_tty=True)


def _keys() -> KeyBindings:
    """Enter sends, Alt+Enter does not, Ctrl-C clears."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion:
            buffer.complete_state = None  # the chosen completion stays; nothing is sent yet
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if not event.current_buffer.text:
            event.app.exit(exception=KeyboardInterrupt)
        event.current_buffer.reset()

    return keys
