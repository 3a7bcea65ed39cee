"""Embeddings over HTTP: of texts and ids, as numbers and base64, beside streams."""

import base64
import math

import numpy as np
import pytest
import torch

from tests.serve.wire import HELLO, Background, slow, stream, text_of, until

PATH = "/v1/embeddings"
TEXTS = ["The cat sits on the mat.", "A cat sat on a mat.", "中文 🐦", "x" * 3000]


def embed(client, texts, **fields):
    answer = client.post(PATH, json={"input": texts, **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["object"] == "list"
    assert [entry["index"] for entry in body["data"]] == [*range(len(body["data"]))]
    assert all(entry["object"] == "embedding" for entry in body["data"])
    return body


def vectors(body):
    return [entry["embedding"] for entry in body["data"]]


def test_vectors_have_length_one_and_the_models_width(client, demo):
    body = embed(client, TEXTS)
    assert len(body["data"]) == len(TEXTS)
    for vector in vectors(body):
        assert len(vector) == demo.config.n_embd
        assert math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-4)
    count = sum(len(demo.tokenizer.encode(text)) for text in TEXTS)
    assert body["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_they_are_the_mean_of_what_the_last_block_gives(client, demo):
    ids = demo.tokenizer.encode(TEXTS[0])
    hidden, _ = demo.hidden(ids)
    mean = hidden.mean(dim=0)
    want = mean / mean.norm()
    [got] = vectors(embed(client, TEXTS[0]))
    torch.testing.assert_close(torch.tensor(got), want, rtol=1e-4, atol=1e-5)


def test_several_are_what_each_is_alone(client, demo):
    together = vectors(embed(client, TEXTS))
    assert together == [vectors(embed(client, text))[0] for text in TEXTS]
    ids = [demo.tokenizer.encode(text) for text in TEXTS]
    assert vectors(embed(client, ids)) == together
    assert vectors(embed(client, ids[0])) == together[:1]


def test_base64_holds_the_same_numbers(client):
    plain = vectors(embed(client, TEXTS))
    coded = vectors(embed(client, TEXTS, encoding_format="base64"))
    for text, numbers in zip(coded, plain, strict=True):
        got = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
        np.testing.assert_array_equal(got, np.asarray(numbers, np.float32))


@pytest.mark.parametrize("dimensions", [1, 10**9])
def test_other_dimensions_are_told(client, demo, dimensions):
    answer = client.post(PATH, json={"input": "x", "dimensions": dimensions})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "dimensions"
    assert embed(client, "x", dimensions=demo.config.n_embd)


def test_streams_go_on_beside_a_long_embedding(client, served, demo, monkeypatch):
    drawn = {"messages": HELLO, "seed": 7, "temperature": 1.5, "top_p": 1, "max_tokens": 20}
    alone = text_of(stream(client, **drawn))
    passes = []
    hidden = demo.hidden

    def counted(*args):
        passes.append(True)
        return hidden(*args)

    monkeypatch.setattr(demo, "hidden", counted)
    slow(monkeypatch, demo, 0.01, "hidden")
    long = Background(client.post, PATH, json={"input": ["There was once a man. " * 200] * 12})
    until(lambda: passes)
    assert text_of(stream(client, **drawn)) == alone
    assert long.is_alive()
    assert long.result().status_code == 200
