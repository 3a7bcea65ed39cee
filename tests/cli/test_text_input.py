"""Every command that reads text gives the same result for every encoding and line end."""

import io
import json
import sys

import numpy as np
import pytest

import wkv
from wkv.chat import read_prompt
from wkv.cli import main
from wkv.evaluate.cost import passage
from wkv.evaluate.documents import read_documents
from wkv.tokenizers.world import WorldTokenizer
from wkv.train.data import END_OF_TEXT
from wkv.train.make_vocabulary import make_vocabulary, write_vocabulary
from wkv.train.text import TextRows, read_texts

ENCODINGS = ["utf-8-sig", "utf-16", "utf-32"]
LINE_ENDS = ["\n", "\r\n"]

in_every_form = pytest.mark.parametrize(
    ("encoding", "line_end"), [(name, end) for name in ENCODINGS for end in LINE_ENDS]
)


def encoded(text, encoding, line_end):
    return text.replace("\n", line_end).encode(encoding)


@pytest.fixture
def command(monkeypatch, capfdbinary):
    """Runs a command with bytes on stdin, and returns the bytes on stdout."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        assert main(arguments) == 0
        sys.stdout.flush()
        return capfdbinary.readouterr().out

    return run


@in_every_form
def test_chat_reads_a_pipe(command, encoding, line_end):
    lines = encoded("My name is Tadeus.\n\nWhat is my name?\n", encoding, line_end)
    first, second = command("chat", stdin=lines).decode().splitlines()
    assert "Tadeus" in first
    assert "Tadeus" in second


@in_every_form
def test_generate_reads_a_prompt(command, encoding, line_end):
    text = "User: What is 27 + 48?\n\nAssistant:"
    options = ("--max-tokens", "12", "--temperature", "0", "--stop", "\n")
    assert command("generate", *options, stdin=encoded(text, encoding, line_end)) == (
        command("generate", *options, "--prompt", text)
    )


def test_token_ids_are_read_in_every_encoding(command):
    for encoding in ENCODINGS:
        ids = "1 2 258\n".encode(encoding)
        assert command("tokenize", "--decode", stdin=ids) == b"\x00\x01\t\n"


@in_every_form
def test_files_are_read(tmp_path, encoding, line_end):
    def written(name, text):
        path = tmp_path / name
        path.write_bytes(encoded(text, encoding, line_end))
        return path

    text = "Zwölf Boxkämpfer.\nNoch eine Zeile.\n"
    assert passage(written("a.txt", text)) == text
    assert read_texts(written("b.txt", text)) == [[text]]
    lines = '{"text": "one two"}\n\n{"text": "three\\r\\n four"}\n'
    assert read_texts(written("c.jsonl", lines)) == [["one two", "three\r\n four"]]
    assert read_documents(written("d.jsonl", lines)).texts == ["one two", "three\r\n four"]
    prompt = 'user = "Ann"\nbot = "Béla"\ninit_prompt = """\nAnn: hi\n\nBéla: hello\n"""\n'
    for name in ("e.py", "e.toml"):
        opening = read_prompt(written(name, prompt))
        assert (opening.template.bot, opening.text) == ("Béla", "\nAnn: hi\n\nBéla: hello\n\n")


def test_training_reads_the_text_of_json_lines_whatever_the_file_is_called(tmp_path):
    documents = ["The rain in Spain.", 'A quote: "yes".\n\nAnother paragraph.'] * 9
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in documents))
    (tmp_path / "b.txt").write_text('\n{"text": "one"}\n')
    (tmp_path / "c.txt").write_text("[A play]\n{She leaves.}\n")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')  # of a run in the same folder
    (tmp_path / "model.vocab.txt").write_text("1 'a' 1\n")
    assert read_texts(tmp_path) == [documents, ["one"], ["[A play]\n{She leaves.}\n"]]
    vocabulary = tmp_path / "model.vocab.txt"
    write_vocabulary(make_vocabulary([(text, 1) for text in documents], 300), vocabulary)
    texts = TextRows(tmp_path / "a.jsonl", vocabulary, 40, 0)().texts  # too short to be split
    parts = np.split(texts[0], np.flatnonzero(texts[0] == END_OF_TEXT))
    tokenizer = WorldTokenizer(vocabulary)
    assert [tokenizer.decode(part[part != END_OF_TEXT].tolist()) for part in parts] == documents


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"messages": []}', r"line 3: .* has no \"text\"; expected"),
        ("a.jsonl", '{"text": "a"}\n{"text": 5}', "line 2"),
        ("a.jsonl", "plain text", "line 1: 'plain text' has no"),
        ("a.txt", '{"text": "a"}\nplain text', "line 2: 'plain text' has no"),
        ("a.json", '{\n "text": "a"\n}', "is JSON; expected plain text, or JSON lines"),
        ("a.txt", '[\n {"text": "a"}\n]', "is JSON; expected plain text, or JSON lines"),
    ],
)
def test_training_refuses_other_json(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(wkv.InputError, match=match):
        read_texts(tmp_path / name)
