"""Display of replies: words are not broken on a terminal, and a pipe gets the text unchanged."""

import io

import pytest
from wcwidth import width

from tests.unit.chat.talking import ScriptedModel
from wkv.chat import ChatSettings, ChatStore, Conversation, Session, answer
from wkv.chat.language import LANGUAGES, language_named
from wkv.cli.screen import Screen, WordWrap, wrapped
from wkv.prompting.presets import EXACT


def _wrapped(text, size, step=1):
    wrap = WordWrap(size)
    parts = [wrap.push(text[start : start + step]) for start in range(0, len(text), step)]
    return "".join(parts) + wrap.flush()


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_words_are_not_broken(step):
    text = "one two three four\n  five, sixes (seven) eight"
    shown = _wrapped(text, 10, step)
    assert shown.split("\n") == ["one two", "three four", "  five,", "sixes", "(seven)", "eight"]
    assert all(width(line) <= 10 for line in shown.split("\n"))


def test_lines_break_between_wide_characters_but_not_before_punctuation():
    shown = _wrapped("你好世界，今天天气很好。", 10)
    assert shown.split("\n") == ["你好世界，", "今天天气", "很好。"]


def test_a_word_longer_than_a_line_is_not_broken():
    text = "see https://example.org/a/very/long/address now"
    assert _wrapped(text, 12).replace("\n", " ") == text.replace("  ", " ")


def test_wrapping_loses_no_characters():
    text = "  a  b\tc\n\n d\n" + "x" * 30 + " 你好 mixed文字and words. "
    for size in (5, 8, 20, 80):
        assert "".join(_wrapped(text, size).split()) == "".join(text.split())


class Terminal(io.StringIO):
    """An output stream that says that it is a terminal."""

    def isatty(self):
        return True


def _shown(byte_model, tmp_path, said, output, **options):
    model = ScriptedModel(byte_model, said.encode() + b"\n\nUser:")
    conversation = Conversation(model, ChatSettings.of(EXACT))
    session = Session(model, conversation, ChatStore(tmp_path), **options)
    Screen(output).show(session, answer(session, "hi"))
    return output.getvalue()


def test_a_pipe_gets_the_reply_unchanged(byte_model, tmp_path):
    said = "word " * 60 + "\n\nend"
    assert _shown(byte_model, tmp_path, " " + said, io.StringIO()) == said + "\n"


def test_thoughts_are_between_tags_in_a_pipe(byte_model, tmp_path):
    said = " <think>\nHm.\n</think>\nYes."
    assert _shown(byte_model, tmp_path, said, io.StringIO()).split() == [
        "<think>",
        "Hm.",
        "</think>",
        "Yes.",
    ]
    assert _shown(byte_model, tmp_path, " <think>\n</think>\nYes.", io.StringIO()) == "Yes.\n"


def test_thoughts_are_dimmed_on_a_terminal(byte_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = _shown(byte_model, tmp_path, " <think>\nHm.\n</think>\nYes.", Terminal())
    assert shown == "\x1b[2mHm.\n\x1b[0mYes.\n"


def test_a_terminal_without_styles_gets_none(byte_model, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    shown = _shown(byte_model, tmp_path, " <think>\nHm.\n</think>\nYes.", Terminal())
    assert "\x1b" not in shown


def test_a_table_is_shown_in_one_column_on_a_narrow_terminal():
    text = (
        "Commands:\n  +undo            撤销上一轮对话\n"
        "  +set [KEY VALUE] show the settings, or more\n"
    )
    assert wrapped(text, 80) == text
    assert wrapped(text, 24).split("\n") == [
        "Commands:", "  +undo", "    撤销上一轮对话", "  +set [KEY VALUE] show",
        "  the settings, or more", "",
    ]  # fmt: skip


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("size", [24, 39, 79])
def test_notices_fit_a_terminal(code, size):
    language = language_named(code)
    for text in (*language.texts.values(), *language.help.values()):
        for line in wrapped(text, size).split("\n"):
            assert width(line) <= size or " " not in line.strip()
