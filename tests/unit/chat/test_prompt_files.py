"""Prompt files of ChatRWKV, rwkv.cpp and web-rwkv, and in TOML; no code is executed."""

import json

import pytest

import wkv
from wkv.chat import Template, language_named, read_prompt
from wkv.chat.prompt_files import prepared
from wkv.errors import InputError

GOOD = '''
"""A prompt."""
# It sets four names.
interface = ":"
user = "Bob"
bot = "Ali" + 'ce'

init_prompt = f"""
{user}{interface} Hi {bot}!\u3000

  {bot}{interface} Hi! """ + "Bye.\\r\\n"
'''


def test_the_python_format_is_read(tmp_path):
    path = tmp_path / "prompt.py"
    path.write_text(GOOD, encoding="utf-8")
    prompt = read_prompt(path)
    assert prompt.template == Template("Bob", "Alice", ":")
    assert prompt.text == "\nBob: Hi Alice!\n\nAlice: Hi! Bye.\n\n"


def test_the_toml_format_is_read(tmp_path):
    path = tmp_path / "prompt.toml"
    path.write_text('user = "甲"\nbot = "乙"\ninterface = "："\ninit_prompt = """\n甲：你好\n"""\n')
    prompt = read_prompt(path)
    assert prompt.template.turn("好") == "甲： 好\n\n乙："
    assert prompt.text == "\n甲：你好\n\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "\na\n\n"),
        ("\n\n  a \r\n\u3000b\t\n\n c\n\n", "\na\nb\n\nc\n\n"),
        (" \n\u3000\n", ""),
        ("", ""),
    ],
)
def test_blanks_around_the_lines_of_an_opening_are_removed(text, expected):
    assert prepared(text) == expected


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import os", 1),
        ("user = 'a'\nbot = str(1)", 2),
        ("user = 'a'\nbot = 'b'\nother = 'c'", 3),
        ("user = 'a'\nbot = f'{user!r}'", 2),
        ("user = 'a'\nbot = f'{user:>9}'", 2),
        ("user = 'a'\nbot = '%s' % user", 2),
        ("user = 'a'\nbot = user.upper()", 2),
        ("user = 'a'\nbot = later", 2),
        ("user = 'a'\nbot = 1", 2),
        ("user = bot = 'a'", 1),
        ("user: str = 'a'", 1),
        ("user = 'a'\nif True:\n  bot = 'b'", 2),
        ("user = 'a'\nbot = [x for x in 'b']", 2),
        ("user = 'a'\nbot =", 2),
    ],
)
def test_anything_but_texts_is_refused_with_its_line(tmp_path, source, line):
    path = tmp_path / "prompt.py"
    path.write_text(source)
    with pytest.raises(wkv.InputError, match=rf"prompt\.py, line {line}: ") as refusal:
        read_prompt(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.py", b"user = 'a'", "bot must be a name"),
        ("a.py", b"user = 'a\\nb'\nbot = 'c'", "user must be a name"),
        ("a.py", b"user = 'a'\nbot = 'b'\ninterface = ''", "interface is ''"),
        ("a.py", b"\xff\xfa", "is not UTF-8 text"),
        ("a.py", b"user = '\x00'", "a.py"),
        ("a.py", b"user = " + b"(" * 9000, "a.py"),
        ("a.py", b"user = " + b"+".join([b"'a'"] * 20000), "a.py"),
        ("a.toml", b"user = ", "not valid TOML"),
        ("a.toml", b"user = 'a'\nbot = 1", "'bot' is not a text"),
        ("a.toml", b"user = 'a'\nbot = 'b'\nmore = 'c'", "'more' is not a text"),
    ],
)
def test_errors_of_damaged_files_are_one_line(tmp_path, name, content, match):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(wkv.InputError, match=match) as refusal:
        read_prompt(path)
    assert "\n" not in str(refusal.value)


def test_errors_of_missing_files_are_one_line(tmp_path):
    for path in (tmp_path / "nothing.py", tmp_path, "~nobody-of-this-name/a.py", "a\0b"):
        with pytest.raises(wkv.InputError, match="cannot be read"):
            read_prompt(path)


@pytest.mark.parametrize("code", ["en", "zh", "ja"])
@pytest.mark.parametrize("template", [Template(), Template("Bob", "Alice")])
def test_every_language_has_an_opening_for_both_families(code, template):
    prompt = language_named(code).prompt(template)
    assert prompt.template == template
    assert prompt.text.startswith(f"\n{template.user}: ")
    assert prompt.text.count(f"\n\n{template.bot}: ") == prompt.text.count(f"{template.user}: ")
    assert "{" not in prompt.text
    assert prompt.text.endswith("\n\n")


def test_an_opening_in_several_parts_with_changing_names(tmp_path):
    path = tmp_path / "English-3.py"
    path.write_text(
        "interface = ':'\nuser = 'James' # in the sample\nbot = 'Emma'\n"
        "init_prompt = f'''\nA talk of {bot} and {user}. \\\nIt is long.\n\n"
        "{user}{interface} Hi.\n'''\n"
        "user = 'Bob'\nbot = 'Alice'\n"
        "init_prompt += f'''\n{user}{interface} Hello {bot}.\n'''\n"
        "print('[[[ Loading ]]]')\n"
    )
    opening = read_prompt(path)
    assert (opening.template.user, opening.template.bot) == ("Bob", "Alice")
    assert opening.text == (
        "\nA talk of Emma and James. It is long.\n\nJames: Hi.\n\nBob: Hello Alice.\n\n"
    )


@pytest.mark.parametrize(
    "line", ["user += print('x')", "init_prompt += open('/etc/passwd').read()"]
)
def test_nothing_of_a_further_part_is_executed(tmp_path, line):
    path = tmp_path / "p.py"
    path.write_text(f"user = 'A'\nbot = 'B'\n{line}\n")
    with pytest.raises(InputError, match="line 3"):
        read_prompt(path)


def test_files_of_rwkv_cpp(tmp_path):
    path = tmp_path / "English-QA.json"
    table = {"user": "User", "assistant": "Assistant", "separator": ":", "prompt": "User: hi\n\n"}
    path.write_text(json.dumps(table))
    opening = read_prompt(path)
    assert (opening.template.user, opening.template.bot) == ("User", "Assistant")
    assert opening.text == "\nUser: hi\n\n"
    path.write_text(json.dumps({"user": "A", "bot": "B", "separator": "：", "prompt": ""}))
    assert read_prompt(path).text == ""


def test_files_of_web_rwkv(tmp_path):
    path = tmp_path / "prompt.json"
    talk = [["Hi {bot}!", "Hello, {user}."], ["So?", "Well."]]
    path.write_text(json.dumps({"user": "P", "bot": "N", "intro": "{bot} sings.", "text": talk}))
    assert read_prompt(path).text == (
        "\nN sings.\n\nP: Hi N!\n\nN: Hello, P.\n\nP: So?\n\nN: Well.\n\n"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "expected texts named"),
        ('{"user": 3}', "expected texts named"),
        ('{"user": "A", "code": "x"}', "found 'code'"),
        ('{"user": "A", "bot": "B", "intro": "", "text": [["a"]]}', "a list of pairs"),
        ('{"user": "A", "bot": "B", "text": []}', "must be texts"),
    ],
)
def test_json_that_is_no_prompt_file(tmp_path, content, message):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_prompt(path)
