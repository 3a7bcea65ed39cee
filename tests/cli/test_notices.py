"""Commands show what they are doing when it takes long."""

import io
import sys
import threading

import pytest

from wkv.cli import notices
from wkv.cli.notices import slow_step


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """Give a function that sets stderr to a stream and returns an event after the notice."""
    monkeypatch.setattr(notices, "SLOW", 0.0)

    def use(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        written = threading.Event()
        write = stream.write

        def recording(text):
            write(text)
            if "loading x" in text:
                written.set()

        stream.write = recording
        return written

    return use


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_slow_step_is_shown(shown, monkeypatch, stream):
    monkeypatch.setenv("TERM", "xterm")
    file = stream()
    written = shown(file)
    with slow_step("loading x"):
        assert written.wait(60)
    if stream is Terminal:
        assert "\r" in file.getvalue()  # the line is removed at the end
    else:
        assert file.getvalue() == "loading x ...\n"


def test_a_fast_step_is_not_shown_and_errors_pass(monkeypatch):
    monkeypatch.setattr(notices, "SLOW", 3600.0)
    for file in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", file)
        with pytest.raises(ZeroDivisionError), slow_step("loading x"):
            1 / 0  # noqa: B018
        assert file.getvalue() == ""
