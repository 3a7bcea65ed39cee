"""`wkv chat` at a terminal: what is typed is edited, answered, stopped and left."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pty = pytest.importorskip("pty")
pytest.importorskip("prompt_toolkit")

from prompt_toolkit.application import create_app_session  # noqa: E402
from prompt_toolkit.completion import CompleteEvent  # noqa: E402
from prompt_toolkit.document import Document  # noqa: E402
from prompt_toolkit.input import create_pipe_input  # noqa: E402
from prompt_toolkit.output import DummyOutput  # noqa: E402

import wkv  # noqa: E402
from wkv.chat import ChatStore, Session  # noqa: E402
from wkv.cli.editor import ChatCompleter, Editor, History  # noqa: E402

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SIGN = ">"


class Terminal:
    """A chat in a terminal of its own."""

    def __init__(self, home, term):
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wkv", "chat", "--seed", "1"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "HOME": str(home), "TERM": term},
            start_new_session=True,
        )
        os.close(slave)
        self._raw = ""

    def type(self, keys):
        """Press keys."""
        os.write(self._master, keys.encode())

    def until(self, *several, seconds=60):
        """Wait until each of these words is shown, one after the other."""
        for words in several:
            end = time.monotonic() + seconds
            while words not in (shown := ESCAPES.sub("", self._raw)):
                ready, _, _ = select.select([self._master], [], [], max(0, end - time.monotonic()))
                assert ready, f"{words!r} was not shown, but:\n{shown}"
                new = os.read(self._master, 4096).decode(errors="replace")
                self._raw += new
                if "\x1b[6n" in new:  # the editor asks where the cursor is
                    self.type("\x1b[1;1R")
            self._raw = shown.split(words, 1)[1]

    def stop(self):
        """Send what Ctrl-C sends while the chat is at work."""
        self.process.send_signal(signal.SIGINT)

    def close(self):
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def start(tmp_path):
    """Give a function that starts a chat and waits until one can type."""
    started = []

    def started_chat(term="xterm-256color"):
        chat = Terminal(tmp_path, term)
        started.append(chat)
        chat.until("+help lists the commands", SIGN)
        return chat

    yield started_chat
    for chat in started:
        chat.close()


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_a_line_is_answered_and_exit_ends(start, tmp_path, term):
    chat = start(term)
    chat.type("What is 27 + 48?\r")
    chat.until("27 + 48 = 75", "tokens/s]", SIGN)
    chat.type("+exit\r")
    assert chat.process.wait(timeout=30) == 0
    assert "What is 27 + 48?" in (tmp_path / ".wkv" / "history").read_text()


def test_ctrl_c_stops_the_answer_only(start):
    chat = start()
    chat.type("+gen Alice was\r")
    chat.until("Alice was", "park")  # the second word of the answer, which has 256 tokens
    chat.stop()
    chat.until("tokens/s]", SIGN)
    chat.type("this is cleared\x03")
    chat.type("What is 27 + 48?\r")
    chat.until("27 + 48 = 75", SIGN)
    chat.type("\x04")
    assert chat.process.wait(timeout=30) == 0


def test_ctrl_c_while_a_file_is_read_leaves_the_conversation(start, tmp_path):
    (tmp_path / "long.txt").write_text("The tower is green. " * 60_000)
    chat = start()
    chat.type(f"+read {tmp_path / 'long.txt'}\r")
    chat.until("reading")
    chat.stop()
    chat.until("the conversation is unchanged", SIGN)
    chat.type("+stats\r")
    chat.until("Turns: 0, 0 tokens in the model state", SIGN)
    chat.type("\x04")
    assert chat.process.wait(timeout=30) == 0


@pytest.fixture
def typist(demo, tmp_path):
    """Give a function: what is typed, to what comes of it; without a terminal."""
    session = Session(demo, wkv.chat.Conversation(demo), ChatStore(tmp_path / "chats"))

    def typed(keys):
        with create_pipe_input() as keyboard, create_app_session(keyboard, DummyOutput()):
            editor = Editor(session, tmp_path / "some" / "history", output=DummyOutput())
            keyboard.send_text(keys)
            return editor.ask("> ")

    return typed


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("hello\r", "hello"),
        ("one\x1b\rtwo\r", "one\ntwo"),
        ("\x1b[200~one\ntwo\x1b[201~\r", "one\ntwo"),
        ("away\x03stays\r", "stays"),
    ],
)
def test_keys(typist, keys, line):
    assert typist(keys) == line


def test_ctrl_d_leaves_and_ctrl_c_on_an_empty_line_tells_so(typist):
    with pytest.raises(EOFError):
        typist("\x04")
    with pytest.raises(KeyboardInterrupt):
        typist("\x03")


def test_history_is_kept_where_it_can_be(tmp_path):
    path = tmp_path / "some" / "history"
    assert list(History(path).load_history_strings()) == []
    History(path).store_string("one\ntwo")
    assert list(History(path).load_history_strings()) == ["one\ntwo"]
    (tmp_path / "file").write_text("")
    History(tmp_path / "file" / "history").store_string("one")
    assert list(History(tmp_path).load_history_strings()) == []


def test_completion(demo, tmp_path):
    conversation = wkv.chat.Conversation(demo)
    session = Session(demo, conversation, ChatStore(tmp_path / "chats"))
    session.store.save("one", conversation, demo)
    session.fork("other")
    (tmp_path / "some file.txt").write_text("")

    def offered(line):
        document = Document(line, len(line))
        return [it.text for it in ChatCompleter(session).get_completions(document, EVENT)]

    assert offered("+re") == ["+reset", "+read"]
    assert offered("hello +re") == []
    assert offered("+load o") == ["one", "other"]
    assert offered("+set top") == ["top_p ", "top_k "]
    assert offered("+set preset c") == ["preset chat", "preset chatrwkv", "preset creative"]
    assert offered("+think a") == ["a bit", "a lot"]
    assert offered("+help un") == ["undo"]
    assert offered(f"+read {tmp_path}/so") == ["me file.txt"]
    assert offered("+gen a") == []


EVENT = CompleteEvent(completion_requested=True)


def test_without_the_editor_lines_are_typed_plainly(demo, tmp_path, monkeypatch):
    from wkv.cli.terminal import typed_lines

    monkeypatch.setitem(sys.modules, "wkv.cli.editor", None)
    lines = iter(["hello", " ", "bye"])

    def plainly(sign):
        assert sign == "> "
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", plainly)
    session = Session(demo, wkv.chat.Conversation(demo), ChatStore(Path(tmp_path)))
    assert list(typed_lines(session)) == ["hello", "bye"]
