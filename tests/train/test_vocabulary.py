"""Vocabularies made from text, and the World tokenizer that reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wkv.tokenizers.world import WorldTokenizer
from wkv.train.make_vocabulary import make_vocabulary, write_vocabulary

TEXT = (
    'The cat sat on the mat.\n\n"Who sat?" said the cat; the mat did not know the cat\'s name.\n\n'
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "small.vocab.txt"
    write_vocabulary(make_vocabulary([(TEXT, 1)], 280), path)
    return WorldTokenizer(path)


def test_all_bytes_come_first():
    tokens = make_vocabulary([(TEXT, 1)], 262)
    assert tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert len(tokens) == 261  # and id 0, which has no text


def test_frequent_words_and_blank_lines_are_tokens(tokenizer):
    for token in (" the", " cat", "\n\n"):
        assert len(tokenizer.encode(token)) == 1, token


def test_weights_count(tmp_path):
    tokens = make_vocabulary([(" rare" * 2, 100), (" common" * 50, 1)], 258, always=())
    assert tokens[-1] == b" rare"


@given(st.text())
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
