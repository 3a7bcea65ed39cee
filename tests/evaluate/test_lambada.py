"""LAMBADA's protocol, against an independent one in float64 that knows nothing of wkv.evaluate."""

import json
import math
import tracemalloc

import numpy as np
import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.oracles import rwkv7
from wkv.evaluate import lambada
from wkv.evaluate.documents import SHA256, read_documents, split
from wkv.evaluate.lambada import Measurement, begin_ids, measure
from wkv.evaluate.results_file import ResultFile

WORDS = ["the", "cat", "on\na", "mat", "", "and", "then", "it", "no", "“of”", "house\n\nby", "sea"]


def _texts(count):
    """Texts of many lengths."""
    return [" ".join(WORDS[i % 3 : i % 3 + 2 + i % 13]) for i in range(count)]


def _last(*arguments, **options):
    return list(measure(*arguments, **options))[-1]


def _oracle(tensors, texts, begin):
    """Count, ppl and acc of a byte-level RWKV-7, computed in float64 one document after another."""
    total = right = 0
    for text in texts:
        cut = max(place for place, character in enumerate(text) if character == " ")
        src, dst = begin + list(text[:cut].encode()), list(text[cut:].encode())
        logits, _ = rwkv7.forward(tensors, src + dst)
        hits = 0
        for i, token in enumerate(dst):
            row = logits[len(src) - 1 + i]
            total += row[token] - np.log(np.exp(row - row.max()).sum()) - row.max()
            hits += row.argmax() == token
        right += hits == len(dst)
    return len(texts), np.exp(-total / len(texts)), 100 * right / len(texts)


@pytest.fixture(scope="module")
def tensors():
    """Give a tiny byte-level RWKV-7."""
    return random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256)


@pytest.fixture(scope="module")
def model(tensors, tmp_path_factory):
    """Give it as a model."""
    path = tmp_path_factory.mktemp("lambada") / "tiny.pth"
    save_pth(tensors, path)
    return wkv.load(path, "cpu fp32")


@pytest.mark.parametrize(("begin", "ids"), [("none", []), ("0", [0])])
def test_the_protocol_is_that_of_an_independent_computation(tensors, model, begin, ids):
    texts = _texts(20)
    arrays = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    count, ppl, acc = _oracle(arrays, texts, ids)
    (done,) = _last([model], texts, begin=begin)
    assert done.count == count
    assert done.ppl == pytest.approx(ppl, rel=1e-4)
    assert done.acc == acc


def test_accuracy_counts_words_that_are_right_to_the_last_id(model):
    said = wkv.generate(
        model,
        "What follows is",
        sampling=wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0, banned=(32,)),
        max_tokens=1,
    ).token_ids
    logits, _ = model.forward(list(b"What follows is"))
    right = int(logits.argmax()) == 32 and int(model.forward(list(b"What follows is "))[0].argmax())
    (done,) = _last([model], ["What follows is " + bytes(said).decode("latin-1")])
    assert done.correct == int(bool(right == said[0]))


def test_figures_do_not_depend_on_the_batch(model):
    texts = _texts(130)
    one = list(measure([model], texts, batch_size=1))
    for batch_size in (8, 64):
        for (ours,), (theirs,) in zip(
            measure([model], texts, batch_size=batch_size), one, strict=True
        ):
            assert ours.count == theirs.count
            assert ours.ppl == pytest.approx(theirs.ppl, rel=1e-6)
            assert ours.acc == theirs.acc


@pytest.mark.parametrize("batch_size", [3, 70])
def test_reports_are_of_the_first_documents_of_the_file(model, batch_size):
    texts = _texts(310)
    counts = []
    for (done,) in measure([model], texts, batch_size=batch_size):
        counts.append(done.count)
        (alone,) = _last([model], texts[: done.count], batch_size=batch_size)
        assert alone.ppl == pytest.approx(done.ppl, rel=1e-6)
        assert alone.acc == done.acc
    assert counts == [100, 200, 300, 310]


def test_a_hundred_documents_are_reported_once(model):
    assert [done.count for (done,) in measure([model], _texts(100))] == [100]


def test_two_models_side_by_side_are_each_what_they_are_alone(model, models):
    texts = _texts(30)
    other = wkv.load(models["4"].path, "cpu fp32", tokenizer="bytes")
    both = _last([model, other], texts)
    for side, alone in zip(both, (model, other), strict=True):
        assert side.ppl == _last([alone], texts)[0].ppl


def test_what_is_read_first_follows_the_generation(models, model, tmp_path):
    assert begin_ids(model, "auto") == []
    assert begin_ids(model, "0") == [0]
    for generation, expected in (("7", [0]), ("7a", [0]), ("6", [])):
        path = tmp_path / f"{generation}.pth"
        size = {"n_layer": 1, "n_embd": 32, "vocab_size": 65536}
        if generation != "7a":
            save_pth(random_checkpoint(generation, **size), path)
            world = wkv.load(path, "cpu fp32")
            assert begin_ids(world, "auto") == expected
            assert begin_ids(world, "none") == []
    with pytest.raises(wkv.InputError, match="begin is"):
        begin_ids(model, "1")


def test_the_cut_is_at_the_last_blank():
    assert split("a b\nc d", "it") == ("a b\nc", " d")
    assert split("a  b", "it") == ("a ", " b")
    assert split("a b ", "it") == ("a b", " ")
    with pytest.raises(wkv.InputError, match="document 7 is the single word 'a\\\\nb'"):
        split("a\nb", "document 7")


def test_a_document_of_one_word_is_told_and_so_is_one_without_a_beginning(model):
    with pytest.raises(wkv.InputError, match="document 2 is the single word"):
        _last([model], ["a b", "ab"])
    with pytest.raises(wkv.InputError, match="document 1 has nothing before its last word"):
        _last([model], [" b"])
    (done,) = _last([model], [" b"], begin="0")
    assert done.count == 1


def test_a_perplexity_beyond_all_floats_is_infinite():
    assert Measurement(1, -1e4).ppl == math.inf


def test_a_measurement_that_was_cut_off_goes_on_to_the_same_figures(model, tmp_path, monkeypatch):
    texts = _texts(250)
    whole = list(measure([model], texts))
    path = tmp_path / "results.jsonl"
    going = measure([model], texts, results=ResultFile(path, {"a": 1}))
    next(going)
    next(going)
    going.close()
    path.write_bytes(path.read_bytes()[:-20])  # the last line is torn, as in a crash
    scored = []
    real = lambada.score
    monkeypatch.setattr(lambada, "score", lambda m, p, *r: scored.append(len(p)) or real(m, p, *r))
    again = list(measure([model], texts, results=ResultFile(path, {"a": 1})))
    assert scored == [100, 50]
    for (one,), (other,) in zip(again, whole, strict=True):
        assert (one.count, one.log_probability, one.correct) == (
            other.count,
            other.log_probability,
            other.correct,
        )
    assert len(path.read_text().splitlines()) == 251
    # a whole file is only read, for fewer documents too
    scored.clear()
    for count in (250, 130):
        (done,) = _last([model], texts[:count], results=ResultFile(path, {"a": 1}))
        assert done.count == count
    assert scored == []
    # and what was measured with a limit is good for more
    limited = tmp_path / "limited.jsonl"
    _last([model], texts[:150], results=ResultFile(limited, {"a": 1}))
    (done,) = _last([model], texts, results=ResultFile(limited, {"a": 1}))
    assert done.log_probability == whole[-1][0].log_probability


def test_results_of_something_else_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    ResultFile(path, {"data": "x", "models": ["a"]})
    ResultFile(path, {"data": "x", "models": ["a"]})
    with pytest.raises(wkv.InputError, match=r"models is \['a'\] there and \['b'\] now"):
        ResultFile(path, {"data": "x", "models": ["b"]})
    for text in ('{"text": "a b"}\n', "hello\n", "[1]\n"):
        path.write_text(text)
        with pytest.raises(wkv.InputError, match="not a result file"):
            ResultFile(path, {"data": "x"})
        assert path.read_text() == text
    with pytest.raises(wkv.InputError, match="cannot be saved"):
        ResultFile(tmp_path / "no" / "file", {})


@pytest.mark.parametrize(
    "line",
    [
        '{"document": 2, "log_probability": [-1.0], "correct": [true]}\n',
        '{"document": 1, "log_probability": [-1.0]}\n',
        '{"document": 1, "log_probability": ["x"], "correct": [true]}\n',
        '{"document": 1, "log_probability": [-1.0], "correct": []}\n',
        "[]\n",
    ],
)
def test_lines_that_are_damaged_are_measured_again(tmp_path, line):
    path = tmp_path / "results.jsonl"
    ResultFile(path, {})
    with path.open("a") as file:
        file.write(line)
    assert ResultFile(path, {}).resume(100, 1) == []


def test_documents_are_read_as_they_are(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a\\u2028 b"}\n\n{"text": "c d", "x": 1}', encoding="utf-8")
    assert read_documents(path).texts == ["a\u2028 b", "c d"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "no such file"),
        (b"", "the file is empty"),
        (b"{}\n\xff\n", "is not UTF-8 text .line 2"),
        (b'{"text": "a b"}\nhello\n', "line 2: 'hello' is not valid JSON"),
        (b'{"txt": "a b"}\n', 'line 1: there is no "text"'),
        (b'{"text": 5}\n', 'no "text"'),
        (b'{"text": "a b"}\n{"text": "word"}\n', "line 2 is the single word 'word'"),
        (b"[]\n", 'no "text"'),
    ],
)
def test_documents_that_cannot_be_used_are_told(tmp_path, content, match):
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(wkv.InputError, match=match) as error:
        read_documents(path)
    assert "\n" not in str(error.value)


def test_the_hub_is_asked_for_the_published_file(tmp_path, monkeypatch):
    good = tmp_path / "lambada.jsonl"
    good.write_text(json.dumps({"text": "a b"}))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(good))
    with pytest.raises(wkv.InputError, match="expected 4aa8d02"):
        read_documents()

    def unreachable(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    with pytest.raises(wkv.InputError, match=r"download https://.*lambada_test.jsonl by hand"):
        read_documents()
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(good))
    assert read_documents().texts == ["a b"]


def test_the_shared_file_is_the_published_one(shared_data):
    documents = read_documents(shared_data / "lambada_test.jsonl")
    assert documents.sha256 == SHA256
    assert len(documents.texts) == 5153


def test_memory_stays_flat(demo, shared_data):
    texts = read_documents(shared_data / "lambada_test.jsonl").texts[:200]
    tracemalloc.start()
    try:
        held = [tracemalloc.get_traced_memory()[0] for _ in measure([demo], texts)]
    finally:
        tracemalloc.stop()
    assert held[-1] - held[0] < 500_000
    assert not torch.is_grad_enabled() or demo.forward([1])[0].grad_fn is None
