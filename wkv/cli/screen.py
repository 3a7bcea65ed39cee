"""Display of chat replies as they stream: word-wrapped on a terminal, unchanged in a pipe."""

from __future__ import annotations

import re
import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

from wcwidth import width

from wkv.cli.notices import notice
from wkv.prompting.thinking import CLOSE, OPEN, ThoughtPiece, Thoughts

if TYPE_CHECKING:
    from rich.progress import Progress

    from wkv.chat import ChatReply, Session

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
HANGING = "，。、！？：；）」』】》〉”’…,.!?:;)"
"""Punctuation that must not start a line; two columns are reserved for it after wide characters."""

NARROW = 60
"""Columns below which a table is shown in one column."""

TABLE_ROW = re.compile(r"^( +)(\S.*?) {2,}(?=\S)", re.MULTILINE)
"""The first column of an indented line with two columns."""

PROGRESS_DELAY = 0.5
"""Seconds of prompt processing before a progress bar appears."""


class WordWrap:
    """A word wrapper for streamed text that breaks lines between words and wide characters.

    A word is held back until it is known to fit. A word that is longer than a line is not broken.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._column = 0
        self._blanks = ""
        self._word = ""
        self._is_long = False

    def push(self, text: str) -> str:
        """Add text and return the part that can be displayed now."""
        return "".join(map(self._take, text))

    def flush(self) -> str:
        """Return the text that was held back."""
        return self._place()

    def _take(self, character: str) -> str:
        if character == "\n":
            shown = self._place() + "\n"
            self._column, self._blanks = 0, ""
            return shown
        if character in " \t":
            shown = self._place()
            self._blanks += " " if character == " " else 4 * " "
            return shown
        is_wide = 2 in map(width, self._word[-1:] + character)  # also after wide punctuation
        if is_wide and character not in HANGING:
            shown = self._place()
            self._word = character
            return shown
        self._word += character
        if self._is_long or width(self._word) >= self._size:
            shown = self._place()
            self._is_long = True
            return shown
        return ""

    def _place(self) -> str:
        """Return the held word, after a line break if it does not fit on the current line."""
        word, self._word = self._word, ""
        continues, self._is_long = self._is_long, False
        if not word:
            return ""
        free = self._size - self._column - len(self._blanks)
        is_wide = width(word[0]) == 2
        needed = width(word.rstrip(HANGING)) + 2 if is_wide else width(word)
        if self._column and not continues and needed > free:
            self._column, self._blanks = width(word), ""
            return "\n" + word
        shown, self._blanks = self._blanks + word, ""
        self._column += width(shown)
        if continues:
            self._column %= self._size + 1  # the terminal itself breaks a word that is too long
        return shown


def wrapped(text: str, size: int) -> str:
    """Wrap a whole text; the parts of an indented line keep its indent.

    On a narrow terminal, the second column of a table is placed below the first one.
    """
    if size < NARROW:
        text = TABLE_ROW.sub(r"\1\2\n\1  ", text)
    lines = []
    for line in text.split("\n"):
        start = line.lstrip(" ")
        indent = line[: len(line) - len(start)]
        wrap = WordWrap(max(size - len(indent), 1))
        lines.append(indent + (wrap.push(start) + wrap.flush()).replace("\n", f"\n{indent}"))
    return "\n".join(lines)


class Screen:
    """The output of a chat: replies on stdout, notices on stderr.

    Attributes:
        is_terminal: whether stdout is a terminal.
    """

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self.is_terminal = self._output.isatty()
        self._has_styles = self.is_terminal and _has_styles(self._output)

    def show(self, session: Session, reply: ChatReply) -> None:
        """Print a reply as it streams; Ctrl-C ends it, and the text so far stays in the chat."""
        self._wrap = WordWrap(shutil.get_terminal_size().columns - 1) if self.is_terminal else None
        self._in_thought = False
        thoughts = None if reply.goes_on else Thoughts(reply.assistant_prefix)
        try:
            for piece in reply:
                self._print(thoughts.push(piece) if thoughts else [ThoughtPiece(piece, False)])
        except KeyboardInterrupt:
            rest = reply.interrupt()
            self._print(thoughts.push(rest) if thoughts else [ThoughtPiece(rest, False)])
        self._print(thoughts.flush() if thoughts else [])
        self._end_thought()
        self._write(self._wrap.flush() if self._wrap else "")
        self._write("\n")
        message = _finish(session, reply)
        self._print_summary(session, reply, message)

    def notice(self, text: str, *, is_aside: bool = False) -> None:
        """Print a notice to stderr, wrapped on a terminal, and dimmed if it is an aside."""
        if sys.stderr.isatty():
            text = wrapped(text, shutil.get_terminal_size().columns - 1)
            if is_aside and self._has_styles:
                text = f"{DIM}{text}{PLAIN}"
        notice(text)

    def _print_summary(self, session: Session, reply: ChatReply, message: str) -> None:
        """Print the message about a finished reply, or its speed if there is no message."""
        done = reply.result
        tokens, seconds = len(done.token_ids), done.timings.decode_seconds
        if message:
            self.notice(message, is_aside=True)
        elif self.is_terminal and not done.text.strip():
            self.notice(session.say("no_answer"), is_aside=True)
        elif self.is_terminal and seconds:
            self.notice(session.say("speed", tokens=tokens, rate=tokens / seconds), is_aside=True)

    def _print(self, pieces: list[ThoughtPiece]) -> None:
        for piece in pieces:
            if piece.is_thought and not self._in_thought:
                self._in_thought = True
                self._write(DIM if self._has_styles else f"{OPEN}\n")
            elif not piece.is_thought:
                self._end_thought()
            self._write(self._wrap.push(piece.text) if self._wrap else piece.text)

    def _end_thought(self) -> None:
        if self._in_thought:
            self._in_thought = False
            self._write(self._wrap.push("\n") if self._wrap else "\n")
            self._write(PLAIN if self._has_styles else f"{CLOSE}\n")

    def _write(self, text: str) -> None:
        print(text, end="", file=self._output, flush=True)


class ProgressBar:
    """A progress bar on stderr for long prompts; call it with the tokens done and the total."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._begun: float | None = None
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Update the bar; it appears after PROGRESS_DELAY seconds and disappears at the end."""
        now = time.perf_counter()
        if self._begun is None:
            self._begun = now
        if done >= total:
            self.close()
        elif self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif now - self._begun > PROGRESS_DELAY:
            self._open(done, total)

    def close(self) -> None:
        """Remove the bar from the screen."""
        if self._bar is not None:
            self._bar.stop()
        self._begun = self._bar = None

    def _open(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._bar.add_task(self._label, total=total, completed=done)
        self._bar.start()


def _finish(session: Session, reply: ChatReply) -> str:
    """Store a finished reply in the session; a second Ctrl-C does not interrupt that."""
    while True:
        try:
            return session.finish(reply)
        except KeyboardInterrupt:
            continue


def _has_styles(output: TextIO) -> bool:
    """Return whether the terminal supports dim text and the user allows it (TERM, NO_COLOR)."""
    from rich.console import Console

    console = Console(file=output)
    return not console.is_dumb_terminal and not console.no_color
