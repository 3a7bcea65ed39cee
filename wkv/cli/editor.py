"""The line editor of `wkv chat`, built on prompt_toolkit; only imported on a terminal.

Enter sends the message. Alt+Enter (or Esc, Enter) inserts a line break, and pasted line breaks are
preserved. Ctrl-C clears the input. Ctrl-D on an empty line leaves the chat.
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
"""Lines reserved below the prompt for the completion menu."""


class Editor:
    """A prompt for chat messages with history and completion.

    Attributes:
        session: the chat session that provides commands and saved chats for completion.
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

    def ask(self, prompt: str) -> str:
        """Show a prompt and return what the user types.

        Raises:
            EOFError: for Ctrl-D. KeyboardInterrupt: for Ctrl-C on an empty line.
        """
        return self._prompt.prompt(prompt)


class History(FileHistory):
    """A file of earlier input lines, created with the first line; file errors are ignored."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """Yield earlier lines, newest first, or nothing if the file cannot be read."""
        with suppress(OSError):
            yield from super().load_history_strings()

    def store_string(self, string: str) -> None:
        """Save a line if the folder is writable."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            super().store_string(string)


class ChatCompleter(Completer):
    """A completer for chat commands and their arguments: files, saved chats and settings."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Yield completions for a line that starts with `+`."""
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
        """Yield the commands that start with the typed text, with their help."""
        for name in COMMANDS:
            if name.startswith(typed.lower()):
                yield Completion(name, -len(typed), display_meta=self._session.language.help[name])

    def _words(self, command: str, kind: str, typed: str) -> Iterable[str]:
        """Return the possible values of a command's argument."""
        if kind == "name":
            saved = self._session.store.list(self._session.model).names
            return sorted({*saved, *self._session.conversations})
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
    """Return an output on the terminal if stdout is redirected, or None for the default output.

    With the default, prompt_toolkit selects the output by TERM.
    """
    return None if sys.stdout.isatty() else create_output(always_prefer_tty=True)


def _keys() -> KeyBindings:
    """Return the key bindings: Enter sends, Alt+Enter inserts a line break, Ctrl-C clears."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion:
            buffer.complete_state = None  # accept the selected completion without sending
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
