"""`wkv batch`: a request a line in, an answer a line out."""

import json
import os
import threading

import pytest

from wkv.cli import main
from wkv.errors import InputError
from wkv.files import read_lines, read_text

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


def line(name, body=HELLO, url="/v1/chat/completions", **more):
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body, **more})


def answers(path):
    rows = [json.loads(row) for row in path.read_text("utf-8").splitlines()]
    return {row["custom_id"]: row for row in rows}


def test_each_request_is_answered(tmp_path):
    requests = [line(f"chat {i}", HELLO | {"model": "gpt"}) for i in range(40)]
    requests.append(line("text", {"prompt": ["Alice", "was"], "max_tokens": 3}, "/v1/completions"))
    requests.append(line("vector", {"input": "Alice"}, "/v1/embeddings"))
    (tmp_path / "in.jsonl").write_text("\n".join(requests) + "\n\n")
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
    done = answers(tmp_path / "out.jsonl")
    assert len(done) == 42
    assert all(row["response"]["status_code"] == 200 for row in done.values())
    assert all(row["error"] is None for row in done.values())
    said = {
        done[f"chat {i}"]["response"]["body"]["choices"][0]["message"]["content"] for i in range(40)
    }
    assert len(said) == 1
    assert len(done["text"]["response"]["body"]["choices"]) == 2


def test_it_goes_on_where_it_was_interrupted(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(line(name) for name in "abc"))
    assert main(["batch", str(source), str(out)]) == 0
    whole = out.read_text("utf-8").splitlines(keepends=True)
    out.write_text("".join(whole[:2]) + whole[2][:50])  # cut off within a line
    assert main(["batch", str(source), str(out)]) == 0
    assert "2 of 3 requests are already answered in OUT" in capsys.readouterr().err
    assert set(answers(out)) == set("abc")
    assert main(["batch", str(source), str(out)]) == 0
    assert len(out.read_text("utf-8").splitlines()) == 3


def test_a_request_that_is_refused_does_not_stop_the_others(tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join([line("bad", {"promt": "x"}), line("good")]))
    assert main(["batch", str(source), str(out)]) == 1
    assert "1 answered, 1 refused" in capsys.readouterr().err
    done = answers(out)
    assert done["bad"]["response"]["status_code"] == 400
    assert "promt" in done["bad"]["error"]["message"]
    assert done["good"]["error"] is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "line 1: this is not valid JSON"),
        ("[]", "line 1: this is not a JSON object"),
        (line("a") + "\n" + line("a"), "line 2: line 1 has the same custom_id 'a'"),
        (line("a", url="/v1/images"), "the url is '/v1/images'"),
        (line("a", HELLO | {"stream": True}), "cannot be streamed"),
        (line("a", []), "the body is missing"),
        (json.dumps({"url": "/v1/completions"}), "custom_id is missing"),
    ],
)
def test_a_wrong_file_is_told_before_anything_is_done(tmp_path, capsys, text, told):
    (tmp_path / "in.jsonl").write_text(text)
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_another_file_is_not_written_to(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(line("a"))
    (tmp_path / "out.jsonl").write_text("my diary\n")
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 1
    assert "was not changed" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "my diary\n"


@pytest.mark.parametrize("held", ["one line without an end", '{"id": "x"', "my diary\n"])
def test_nothing_of_another_file_is_lost(tmp_path, capsys, held):
    (tmp_path / "in.jsonl").write_text(line("a"))
    (tmp_path / "out.jsonl").write_text(held)
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 1
    assert "was not changed" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == held


def test_the_requests_are_not_their_own_answers(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(line("a") + "\n")
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "in.jsonl")]) == 1
    assert "not a batch response" in capsys.readouterr().err


def test_what_editors_and_folders_do_is_told_or_borne(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(line("a"), encoding="utf-8-sig")
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path)]) == 1
    assert main(["batch", str(tmp_path / "in.jsonl"), str(tmp_path / "no" / "out.jsonl")]) == 1
    assert "the folder does not exist" in capsys.readouterr().err


def test_where_there_is_no_room_now_there_is_later(tmp_path):
    pytest.importorskip("llguidance")

    def form(i):
        schema = {"type": "object", "properties": {f"a{i}": {"enum": [1, 2]}}}
        schema |= {"required": [f"a{i}"], "additionalProperties": False}
        return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}

    requests = [line(f"{i}", HELLO | {"response_format": form(i)}) for i in range(40)]
    texts = {"prompt": ["a"] * 50, "max_tokens": 1}
    requests += [line(f"texts {i}", texts, "/v1/completions") for i in range(6)]
    requests.append(line("\ud800"))
    (tmp_path / "in.jsonl").write_text("\n".join(requests))
    out = tmp_path / "out.jsonl"
    assert main(["batch", str(tmp_path / "in.jsonl"), str(out), "--slots", "4"]) == 0
    done = answers(out)
    assert len(done) == 47
    assert {row["response"]["status_code"] for row in done.values()} == {200}


@pytest.mark.parametrize("output", ["/dev/full", "/dev/zero", "/dev/null"])
def test_an_output_that_is_no_file_is_refused_at_the_start(tmp_path, capsys, output):
    (tmp_path / "in.jsonl").write_text(line("a"))
    assert main(["batch", str(tmp_path / "in.jsonl"), output]) == 1
    assert "not a regular file" in capsys.readouterr().err


def test_an_endless_input_is_refused(tmp_path, capsys):
    assert main(["batch", "/dev/zero", str(tmp_path / "out.jsonl")]) == 1
    assert "zero bytes" in capsys.readouterr().err


def test_an_input_may_be_a_pipe(tmp_path):
    pipe = tmp_path / "in"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(line("ä").encode("utf-16"),))
    writer.start()
    assert main(["batch", str(pipe), str(tmp_path / "out.jsonl")]) == 0
    writer.join()
    assert set(answers(tmp_path / "out.jsonl")) == {"ä"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_lines_are_those_of_the_whole_text(tmp_path, end, encoding):
    text = end.join(["ä", "", "b\u2028c", "d" * 10])
    (tmp_path / "text").write_bytes(text.encode(encoding))
    assert list(read_lines(tmp_path / "text", 10)) == read_text(tmp_path / "text").split("\n")
    with pytest.raises(InputError, match="line 4 has more than 9 characters"):
        list(read_lines(tmp_path / "text", 9))


def test_lines_of_another_encoding_are_refused(tmp_path):
    (tmp_path / "text").write_bytes(b"a\n\xe4\n")
    with pytest.raises(InputError, match="not UTF-8 text"):
        list(read_lines(tmp_path / "text", 9))
