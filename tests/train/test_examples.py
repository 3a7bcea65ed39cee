"""Formats of training examples, their loss masks, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from wkv.demo import WEIGHTS
from wkv.errors import InputError, TrainingError
from wkv.prompting.template import Template
from wkv.tokenizers.world import WorldTokenizer
from wkv.train.data import batch
from wkv.train.examples.dataset import DataOptions, read_dataset
from wkv.train.examples.encode import Encoder
from wkv.train.examples.render import Style
from wkv.train.examples.token_files import write_binidx

WORLD = WorldTokenizer()
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!\n\nHow?"}]
PIECES = [("User: Hi\n\nAssistant:", 0.0), (" Hello!\n\nHow?\n\n", 1.0)]


def options(context=64, hold_out=0.2, *, tokenizer=WORLD, begins=True, ends=True, **rest):
    style = Style(Template(), rest.pop("prompt_weight", 0.0), rest.pop("skips_thinking", False))
    return DataOptions(Encoder(tokenizer, begins, ends), style, context, hold_out=hold_out, **rest)


def spans(document, tokenizer=WORLD):
    """Give the texts of a document's stretches of equal weight."""
    found = []
    for token, weight in zip(document.ids, document.weights, strict=True):
        if not found or found[-1][1] != weight:
            found.append([[], weight])
        found[-1][0].append(token)
    return [(tokenizer.decode(ids), weight) for ids, weight in found]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def only(path, **choices):
    """Give the one document of a file."""
    data = read_dataset(path, options(hold_out=0.0, **choices))
    return data, *data.training


@pytest.mark.parametrize(
    ("form", "record"),
    [
        ("messages", {"messages": CHAT}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"},
                                        {"from": "gpt", "value": "Hello!\n\nHow?"}]}),
        ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello!\n\nHow?"}),
        ("completion", {"prompt": "Hi", "completion": "Hello!\n\nHow?"}),
        ("completion", {"question": "Hi", "answer": "Hello!\n\nHow?"}),
        ("completion", {"prompt": CHAT[:1], "completion": CHAT[1:]}),
        ("text", {"text": "User: Hi\n\nAssistant: Hello!\n\nHow?"}),
        ("text", {"text": "User: Hi\n\nAssistant: Hello!\n\nHow?\n\nUser: never answered"}),
    ],
)  # fmt: skip
def test_every_form_of_a_conversation_gives_the_same_document(tmp_path, form, record):
    for path in (write(tmp_path / "a.jsonl", record), tmp_path / "a.json"):
        path.write_text(json.dumps([record], indent=1) if path.suffix == ".json" else
                        f"\ufeff\n{json.dumps(record)}\r\n\n")  # fmt: skip
        data, document = only(path)
        assert data.form == form
        assert (document.ids[0], document.ids[-1]) == (0, 0)
        assert document.weights[-1] == 1
        assert spans(document.body()) == PIECES
        ((first, end),) = document.answers
        assert WORLD.decode(document.ids[first:end]) == " Hello!\n\nHow?\n\n"


def test_roles_weights_thoughts_and_systems(tmp_path):
    messages = [
        {"role": "system", "content": "Be\n\nbrief."}, {"role": "user", "content": "A\n\nB"},
        {"role": "assistant", "content": "no", "weight": 0},
        {"role": "tool", "content": [{"type": "text", "text": "4"}]},
        {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
    ]  # fmt: skip
    _, document = only(write(tmp_path / "a.jsonl", {"messages": messages}))
    assert spans(document.body()) == [
        ("System: Be\nbrief.\n\nUser: A\nB\n\nAssistant: no\n\nUser: 4\n\nAssistant: <think", 0.0),
        (">hm\n</think>\nyes\n\n", 1.0),
    ]
    path = write(tmp_path / "b.jsonl", {"instruction": "Q", "input": "x", "output": "R"})
    _, document = only(path, system="S", prompt_weight=0.25, skips_thinking=True)
    assert spans(document.body()) == [
        ("System: S\n\nUser: Q\nx\n\nAssistant: <think>\n</think", 0.25), (">\nR\n\n", 1.0)
    ]  # fmt: skip


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist([{"messages": CHAT}]), tmp_path / "a.parquet")
    data, document = only(tmp_path / "a.parquet")
    assert (data.form, spans(document.body())) == ("messages", PIECES)


def test_prose_is_learned_whole_and_cut_anew(tmp_path):
    words = " ".join(str(number) for number in range(900))
    path = tmp_path / "a.txt"
    path.write_text(f"{words}\n<|endoftext|>\n{words[::-1]}\n")
    data = read_dataset(path, options(hold_out=0.05))
    assert (data.form, data.counts.found, data.training) == ("text", 2, [])
    rows = batch(data.rows(0, 4, "prose"), 0, 8)
    assert bool((rows.weights == 1).all())
    assert data.held_out
    assert list(data.prose).count(0) == 1 + (data.prose[-1] == 0)


def test_ids_of_binidx_and_arrays(tmp_path):
    documents = [WORLD.encode(f"{number} and {number + 1} are numbers.") for number in range(90)]
    write_binidx(tmp_path / "data", [[*ids, 0] for ids in documents])
    np.save(tmp_path / "ids.npy", np.concatenate([[*ids, 0] for ids in documents]).astype("u2"))
    expected = [token for ids in documents for token in (*ids, 0, 0)]
    for name in ("data", "data.idx", "data.bin"):
        data = read_dataset(tmp_path / name, options(hold_out=0.05))
        held_out = [token for one in data.held_out for token in one.ids]
        assert data.form == "binidx"
        found = [*data.prose, *held_out]
        assert expected[: len(data.prose)] == list(data.prose)
        assert len(found) <= len(expected)
    assert read_dataset(tmp_path / "ids.npy", options(hold_out=0.05)).form == "ids"
    (tmp_path / "data.idx").write_bytes((tmp_path / "data.idx").read_bytes()[:-3])
    with pytest.raises(InputError, match="incomplete"):
        read_dataset(tmp_path / "data", options())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\n{"text": \'b\'}\n', r"line 2, column 10: .*double quotes"),
        ('{"text": "a"}\n\n{"prompt": 1, "completion": NaN}\n', r"line 3, column 29: NaN"),
        ('{"text": "a"}\n{"text": }\n', r"line 2, column 10: this is not JSON"),
        ('[{"text": "a"},\n {"text": NaN}]', r"line 2, column 11: NaN"),
        ('{"text": "a"}\n[1]\n', r"line 2: found '\[1\]', expected an object"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}',
         r"line 1: a message of the assistant is empty"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"line 1: .*no answer"),
        ('{"messages": [{"role": "wizard", "content": "a"}]}', r"message 1: the role is 'wizard'"),
        ('{"messages": [{"role": "user", "content": 5}]}', r"message 1: the content is '5'"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}', r"preferences.*TRL"),
        ('{"title": "a"}', r"the fields are title; expected text"),
        ('{"prompt": 5, "completion": "b"}', r"line 1: prompt is '5'"),
        ("{}", "the fields are none"),
    ],
)  # fmt: skip
def test_wrong_records_are_refused_with_their_place(tmp_path, text, message):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_dataset(path, options(hold_out=0.0))


def test_empty_and_foreign_files_are_refused(tmp_path):
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / name).write_text("\n")
        with pytest.raises(InputError, match="give"):
            read_dataset(tmp_path / name, options())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no"):
        read_dataset(tmp_path / "empty", options())
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match=r"Parquet|parquet"):
        read_dataset(tmp_path / "a.parquet", options())
    np.save(tmp_path / "a.npy", np.array([5, 70000]))
    with pytest.raises(InputError, match="an id is 70000"):
        read_dataset(tmp_path / "a.npy", options())


def test_long_conversations_are_divided_between_turns(tmp_path):
    turns = [{"role": "system", "content": "S"}]
    for number in range(9):
        turns += [{"role": "user", "content": f"q{number}"},
                  {"role": "assistant", "content": f"answer {number}"}]  # fmt: skip
    long = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "long " * 99}]
    path = write(tmp_path / "a.jsonl", {"messages": turns}, {"messages": long})
    data = read_dataset(path, options(48, hold_out=0.0))
    assert data.counts.too_long == 1
    assert all(len(document.ids) <= 49 for document in data.training)
    assert all(WORLD.decode(one.ids).startswith("System: S\n\nUser:") for one in data.training)
    found = [WORLD.decode(one.ids[first:end]).strip()
             for one in data.training for first, end in one.answers]  # fmt: skip
    assert found == [f"answer {number}" for number in range(9)]
    with pytest.raises(TrainingError, match="longer than --context"):
        read_dataset(write(tmp_path / "b.jsonl", {"messages": long}), options(48))


def test_no_prompt_is_both_learned_and_held_out(tmp_path):
    records = [{"prompt": f"q{number % 20}", "completion": f"a{number % 40}"}
               for number in range(80)]  # fmt: skip
    data = read_dataset(write(tmp_path / "a.jsonl", *records), options())
    held_out = {document.prompt_key for document in data.held_out}
    assert data.counts.repeated == 40
    assert held_out
    assert not held_out & {document.prompt_key for document in data.training}
    assert data.counts.shared == 40 - len(data.training) - len(data.held_out)
    other = write(tmp_path / "b.jsonl", *records[:4])
    named = read_dataset(tmp_path / "a.jsonl", options(hold_out=Path(other)))
    assert {WORLD.decode(one.ids)[6:8] for one in named.held_out} == {"q0", "q1", "q2", "q3"}
    assert len(named.training) == 32


def test_tokens_over_the_border_of_an_answer_are_counted(tmp_path):
    tokenizer = WorldTokenizer({1: b":", 2: b": a", **{3 + i: bytes([i]) for i in range(256)
                                if bytes([i]) != b":"}})  # fmt: skip
    data, document = only(write(tmp_path / "a.jsonl", {"prompt": "q", "completion": "ab"}),
                          tokenizer=tokenizer)  # fmt: skip
    assert (data.counts.joined, document.is_joined) == (1, True)
    assert spans(document.body(), tokenizer)[1] == ("b\n\n", 1.0)


def test_rows_use_every_document_once_and_join_turns(tmp_path):
    records = [{"prompt": f"q{number}", "completion": "yes " * (number % 9 + 1)}
               for number in range(50)]  # fmt: skip
    data = read_dataset(write(tmp_path / "a.jsonl", *records), options(128))
    count = len(data.training)
    rows, again = data.rows(3, 4, "x"), data.rows(3, 4, "x")
    epoch = [tuple(rows.row(number).ids) for number in range(2 * count)]
    assert set(epoch[:count]) == set(epoch[count:]) == {tuple(one.ids) for one in data.training}
    assert epoch[:count] != epoch[count:]
    assert [tuple(again.row(number).ids) for number in reversed(range(count))] == epoch[
        count - 1 :: -1
    ]
    joined = [data.rows(3, 4, "x", turns=3).row(number) for number in range(60)]
    questions = [WORLD.decode(row.ids).count("User:") for row in joined]
    assert set(questions) == {1, 2, 3}
    assert all(row.ids[0] == row.ids[-1] == 0 and 0 not in row.ids[1:-1] for row in joined)
    assert all(len(row.ids) == len(row.weights) for row in joined)


def test_the_built_in_vocabulary_needs_no_end(tmp_path):
    tokenizer = WorldTokenizer(WEIGHTS.with_suffix(".vocab.txt"))
    path = write(tmp_path / "a.jsonl", {"messages": CHAT})
    _, document = only(path, tokenizer=tokenizer, begins=False, ends=False)
    assert spans(document, tokenizer) == PIECES
