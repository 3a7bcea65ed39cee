"""Lines that a user types: every command, in every language, and malformed lines."""

import gzip
import importlib

import pytest
from wcwidth import width

import wkv
from tests.unit.chat.talking import ScriptedModel, type_line
from wkv.chat import COMMANDS, ChatSettings, ChatStore, Conversation, Leave, Session, answer, clean
from wkv.chat.commands import parsed
from wkv.chat.language import LANGUAGES, language_named
from wkv.prompting.presets import EXACT, PRESETS
from wkv.prompting.thinking import Thoughts


def test_letters_make_a_command_and_digits_a_message(session):
    assert type_line(session, "+1 is a message") != ""
    assert len(session.conversation.now.entries) == 1
    for line in ("+RESET", "+Reset", "  +reset  "):
        assert type_line(session, line).startswith("Conversation reset.")
    assert type_line(session, "+resett").startswith("Unknown command +resett. Did you mean +reset")
    assert type_line(session, "+zzzzzz") == "Unknown command +zzzzzz. +help lists all commands."
    assert type_line(session, "+reset now") == "+reset takes no argument."
    assert type_line(session, "+gen") == "Usage: +gen TEXT"
    assert isinstance(answer(session, "+exit"), Leave)


@pytest.mark.parametrize("line", ["exit", " Quit ", "/bye", "/exit", ":q", "quit()"])
def test_words_of_other_programs_leave(session, line):
    assert isinstance(answer(session, line), Leave)


def test_commands_of_other_programs_are_understood_or_explained(session):
    for line in ("help", "/help", "/?"):
        assert type_line(session, line) == type_line(session, "+help")
    assert type_line(session, "/clear").startswith("Conversation reset.")
    assert type_line(session, "/save x") == "Commands begin with + here. Did you mean +save?"
    assert not session.conversation.now.entries
    for line in ("/etc/passwd", "exit the room", "/saved x", "/ 2"):
        type_line(session, line)
        assert session.conversation.now.entries[-1].text == line


@pytest.mark.parametrize("code", ["zh", "ja"])
def test_errors_are_translated(session, tmp_path, code):
    language = language_named(code)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "latin.txt").write_bytes(b"\xe4")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "model.pth").write_bytes(b"PK\3\4")
    (tmp_path / "code.py").write_text("import os")
    (tmp_path / "no_bot.toml").write_text("user = 'A'")
    (tmp_path / "wrong.toml").write_text("user =")
    lines = [
        *(f"+read {tmp_path / name}" for name in ("empty.txt", "latin.txt", "none.txt")),
        *(f"+read {tmp_path / name}" for name in ("text.gz", "image.png", "model.pth")),
        *(f"+prompt {tmp_path / name}" for name in ("code.py", "no_bot.toml", "wrong.toml")),
        *("+load none", "+save a/b", "+fork main", "hi -temp=x", "+set top_p 7", "+set top_k x"),
        *("+set max_tokens 0", "+set max_tokens -2", "+set preset none"),
    ]
    for line in lines:
        with pytest.raises(wkv.WKVError) as error:
            answer(session, line)
        translated = language.error(error.value)
        assert translated != str(error.value)
        assert max(map(width, translated)) == 2, translated
    for name in ("none.pth", tmp_path, "g1:0.2b"):
        with pytest.raises(wkv.WKVError) as error:
            wkv.load(name)
        assert language.error(error.value) != str(error.value)
    assert language.error(wkv.InputError("something new")) == "something new"


@pytest.mark.parametrize("code", LANGUAGES)
def test_help_fits_a_terminal(session, code):
    session.language = language_named(code)
    shown = [
        type_line(session, "+help"),
        *(type_line(session, f"+help {name}") for name in COMMANDS),
    ]
    wide = [line for text in shown for line in text.splitlines() if width(line) > 79]
    assert wide == []


def test_a_backslash_and_n_are_a_newline_in_texts_and_not_in_paths(session):
    type_line(session, r"one\ntwo")
    assert session.conversation.now.entries[0].text == "one\ntwo"
    with pytest.raises(wkv.InputError, match=r"C:\\new\.txt"):
        type_line(session, r"+read C:\new.txt")


def test_options_hold_for_one_message(session):
    before = session.conversation.settings
    type_line(session, "Hello -temp=3 -top_p=0.1")
    assert session.conversation.settings is before
    assert session.conversation.now.entries[0].text == "Hello"


def test_again_takes_options_and_says_that_temperature_0_always_gives_the_same(session):
    assert "no message yet" in type_line(session, "+")
    type_line(session, "Who are you?")
    reply = answer(session, "+")
    list(reply)
    assert "temperature 0" in session.finish(reply)
    reply = answer(session, "+ -temp=1")
    list(reply)
    assert session.finish(reply) == ""
    assert len(session.conversation.now.entries) == 1


def test_reply_number_i_uses_the_seed_plus_i(demo, tmp_path):
    def transcript(seed):
        session = Session(demo, Conversation(demo), ChatStore(tmp_path), seed=seed)
        session.free.length = 8
        return [type_line(session, line) for line in ("Hello", "+gen The king", "++", "+++")]

    first = transcript(5)
    assert transcript(5) == first
    assert first[1] != first[2]
    assert transcript(6)[1] == first[2] or transcript(6)[1] != first[1]


def test_save_load_fork_and_list(session):
    type_line(session, "My name is Tadeus.")
    assert str(session.store.folder) in type_line(session, "+save one")
    assert type_line(session, "+fork two").startswith("Switched to two, a copy of main.")
    type_line(session, "My name is Anna.")
    listed = type_line(session, "+list")
    assert "main, *two" in listed
    assert listed.endswith(": one")
    assert "Anna" in type_line(session, "What is my name?")
    type_line(session, "+load main")
    assert "Tadeus" in type_line(session, "What is my name?")
    assert "Loaded one." in type_line(session, "+load one")
    assert session.facts["turns"] == 1
    type_line(session, "+undo")
    type_line(session, "+undo")
    assert session.facts["turns"] == 2
    with pytest.raises(wkv.InputError, match="in memory"):
        type_line(session, "+fork two")
    with pytest.raises(wkv.InputError, match="no chat of that name"):
        type_line(session, "+load three")


def test_read_a_file_and_ask(session, tmp_path):
    path = tmp_path / "a name with blanks.txt"
    path.write_text("The tower is green.\n\n\n", encoding="utf-8")
    assert type_line(session, f"+read {path}").startswith(f"Read {path.name}: ")
    tokens = session.facts["seen"]
    assert type_line(session, "What is 1 + 2?")
    type_line(session, "+undo")
    type_line(session, "+save tower")
    type_line(session, "+reset")
    type_line(session, "+load tower")
    assert session.facts["seen"] == tokens
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"\xe4\xff")
    for name, match in (("empty", "no text"), ("latin", "UTF-8"), ("missing", "cannot be read")):
        with pytest.raises(wkv.InputError, match=match):
            type_line(session, f"+read {tmp_path / name}.txt")
    with pytest.raises(wkv.InputError, match="cannot be read"):
        type_line(session, f"+read {tmp_path}")
    assert session.facts["seen"] == tokens


def test_settings_are_shown_and_changed(session):
    assert "temperature        0" in type_line(session, "+set")
    assert "top_p              0.5" in type_line(session, "+set top_p 0.5")
    assert "max_tokens         9" in type_line(session, "+set max_tokens=9")
    shown = type_line(session, "+set preset creative")
    assert "temperature        0.6" in shown
    assert "rwkv.cn" in shown
    assert type_line(session, "+set nonsense 1").startswith("Usage: ")
    before = session.conversation.settings
    for line in ("temperature x", "top_p 2", "top_k 1.5", "max_tokens 0", "preset none"):
        with pytest.raises(wkv.InputError):
            type_line(session, f"+set {line}")
    assert session.conversation.settings is before


def test_thinking_is_switched(world_model, tmp_path):
    session = Session(world_model, Conversation(world_model), ChatStore(tmp_path))
    assert type_line(session, "+think a lot") == "The model thinks a lot before it answers."
    assert session.conversation.settings.thinking.words == " (think a lot)"
    type_line(session, "+nothink")
    assert session.conversation.settings.thinking.assistant_prefix == " <think>\n</think"
    type_line(session, "+think off")
    assert session.conversation.settings.thinking.assistant_prefix == ""
    assert "Usage: +think" in type_line(session, "+think hard")


@pytest.mark.parametrize("line", ["+think", "+think a lot", "+nothink"])
def test_models_that_were_not_trained_to_think_say_so(session, old_world_model, tmp_path, line):
    old = Session(old_world_model, Conversation(old_world_model), ChatStore(tmp_path))
    for one in (session, old):
        before = one.conversation.settings
        assert "was not trained to think" in type_line(one, line)
        assert one.conversation.settings is before
    assert type_line(session, "What is 27 + 48?") == " 27 + 48 = 75"


def finish(session, line):
    """Type a line, and return the reply and the notice after it."""
    reply = answer(session, line)
    return "".join(reply).strip(), session.finish(reply)


@pytest.mark.parametrize("command", ["+i", "+qq"])
def test_instructions_and_questions_reach_the_built_in_model_in_its_own_form(session, command):
    session.free.length = 256
    for question, right in (("What is 27 + 48?", "27 + 48 = 75"), ("spell cat", "c-a-t")):
        said, note = finish(session, f"{command} {question}")
        assert right in said
        assert "not trained on other prompts" in note
    assert finish(session, "++")[0] == said


@pytest.mark.parametrize("line", ["+gen Alice was", "+qa Tell me about Alice.", "+++"])
def test_a_text_that_stops_at_its_limit_says_how_to_go_on(session, line):
    type_line(session, "+gen Alice")
    session.free.length = 3
    assert finish(session, line)[1] == "[stopped at 3 tokens; +++ continues]"


def test_stats_count_what_was_read_and_written(session):
    type_line(session, "What is 1 + 2?")
    facts = session.facts
    assert facts["turns"] == 1
    assert facts["seen"] == facts["read"] + facts["written"]
    assert f"{facts['bytes']:,} bytes" in type_line(session, "+stats")
    assert facts["written_rate"] > 0


def test_a_message_of_a_million_characters_is_only_long(world_model, tmp_path):
    model = ScriptedModel(world_model, [61])
    session = Session(model, Conversation(model, ChatSettings.of(EXACT)), ChatStore(tmp_path))
    type_line(session, "+set max_tokens 2")
    calls = []
    session.progress = lambda *numbers: calls.append(numbers)
    assert type_line(session, "=" * 1_000_000) == "<<"
    assert len(calls) > 10
    assert calls[-1] == (session.counts.tokens_read, session.counts.tokens_read)
    before = session.conversation.now
    with pytest.raises(wkv.TokenizerError, match="lone surrogate"):
        type_line(session, "\ud800")
    assert session.conversation.now is before


@pytest.mark.parametrize("blanks", [" ", "\n", "-", "-temp=1 ", "+", "\\n"])
def test_unusual_lines_are_parsed_quickly(blanks):
    for line in (blanks * 100_000, "+" + blanks * 100_000, "x" + blanks * 100_000 + "x"):
        name, argument, options = parsed(line)
        assert isinstance(clean(argument + name + "."), str)
        assert options.text is not None


def test_languages_have_the_same_texts(session):
    english = importlib.import_module("wkv.chat.languages.en")
    for code in LANGUAGES:
        other = importlib.import_module(f"wkv.chat.languages.{code}")
        for name in ("TEXTS", "ARGUMENTS", "HELP", "DETAILS", "OPENINGS"):
            assert set(getattr(other, name)) == set(getattr(english, name))
        assert list(other.HELP) == list(COMMANDS)
        for key, text in english.TEXTS.items():
            fields = {word.split("}")[0] for word in text.split("{")[1:]}
            found = {word.split("}")[0] for word in other.TEXTS[key].split("{")[1:]}
            assert fields == found, (code, key)
        session.language = language_named(code)
        text = type_line(session, "+help")
        for name, command in COMMANDS.items():
            assert session.language.usage(name, command.argument) in text
            assert session.language.help[name] in type_line(session, f"+help {name}")
        for preset in PRESETS:
            assert preset in session.language.details["+set"]


def test_languages_are_found_by_code_and_name():
    assert language_named("Japanese") == language_named("ja")
    with pytest.raises(wkv.InputError, match="'xx' is not a language"):
        language_named("xx")


@pytest.mark.parametrize("size", [1, 3, 100])
def test_thoughts_are_separated_from_the_answer(size):
    said = " <think>\nLet me\nsee.\n</think>\n\nYes <think> no"
    thoughts = Thoughts()
    pieces = []
    for start in range(0, len(said), size):
        pieces += thoughts.push(said[start : start + size])
    pieces += thoughts.flush()
    assert "".join(p.text for p in pieces if p.is_thought).strip() == "Let me\nsee."
    assert "".join(p.text for p in pieces if not p.is_thought) == "Yes <think> no"


def test_replies_without_thoughts_and_unfinished_ones():
    for said in ("<thin", "Hello", " <b>"):
        thoughts = Thoughts()
        pieces = [*thoughts.push(said), *thoughts.flush()]
        assert [(p.text, p.is_thought) for p in pieces] == [(said.strip(), False)]
    thoughts = Thoughts()
    pieces = [*thoughts.push("<think>so</thi"), *thoughts.flush()]
    assert "".join(p.text for p in pieces) == "so</thi"
    assert Thoughts().push(" <think>\n</think>\n") == []
