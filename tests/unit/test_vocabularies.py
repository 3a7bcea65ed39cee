"""Vocabularies in all forms that people have: JSON, literals alone, characters, music."""

import json

import pytest

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.errors import TokenizerError
from wkv.inference.prefill import prompt_ids
from wkv.tokenizers import choose_tokenizer, open_tokenizer
from wkv.tokenizers.world import WorldTokenizer, official_vocabulary, read_vocabulary

TEXT = "The Duchess: 27 + 48 = 75, 今天天气不错 😀\n\n    return x[0]\n"


def test_world_as_json_and_as_literals_alone(tmp_path):
    world = WorldTokenizer()
    table = {}
    for token, text in world.entries.items():
        try:
            table[str(token)] = text.decode()
        except UnicodeDecodeError:
            table[str(token)] = list(text)
    (tmp_path / "rwkv_vocab.json").write_text(json.dumps(table))
    lines = ["<s>", *(repr(world.entries[token]) for token in range(1, 65530))]
    (tmp_path / "vocab.txt").write_text("\n".join(lines) + "\n")
    for name in ("rwkv_vocab.json", "vocab.txt"):
        found = open_tokenizer(tmp_path / name, 65536)
        assert found.entries == world.entries
        assert found.encode(TEXT) == world.encode(TEXT)
        assert found.end_of_text == 0


def test_entries_without_bytes_are_left_out(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("0 '' 0\n1 'a' 1\n2 '' 0\n3 b'' 0\n4 'ab' 2\n")
    assert read_vocabulary(path) == {1: b"a", 4: b"ab"}
    assert len(read_vocabulary(official_vocabulary())) == 65529


def test_characters(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"0": "\n", "1": " ", "2": "a", "3": "你", "4": "好"}))
    tokenizer = open_tokenizer(path, 5)
    assert tokenizer.encode("你好 a\n") == [3, 4, 1, 2, 0]
    assert tokenizer.decode([3, 4, 1, 2, 0]) == "你好 a\n"
    assert tokenizer.end_of_text is None
    with pytest.raises(TokenizerError, match="in no token of this vocabulary"):
        tokenizer.encode("b")


@pytest.mark.parametrize(
    "content", [{"1": 5}, {"1": [256]}, {"1": ["a"]}, {"x": "a"}, {}, {"9" * 30: "a"}, {"1": ""}]
)
def test_json_that_is_no_vocabulary(tmp_path, content):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError):
        open_tokenizer(path)


def test_sheet_music(tmp_path):
    save_pth(random_checkpoint("5.2", n_layer=2, n_embd=64, vocab_size=128), tmp_path / "abc.pth")
    model = wkv.load(tmp_path / "abc.pth")
    assert model.tokenizer.name == "abc"
    assert choose_tokenizer(128).end_of_text == 3
    assert prompt_ids(model, "S:2\nB:9", None) == [2, *b"S:2\nB:9"]
    done = wkv.generate(model, "X:1", max_tokens=30, sampling=wkv.Sampling(seed=1))
    assert done.text.isascii()
    assert done.text == "".join(chr(token) for token in done.token_ids if token > 3)
    with pytest.raises(TokenizerError, match=r"not ASCII text.*ABC notation"):
        wkv.generate(model, "é", max_tokens=1)


def test_midi_events_are_words_with_blanks_between_them(tmp_path):
    words = ["<pad>", "<start>", "<end>", "v:5b:3", "t125", "pi:43:5"]
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": n, "content": words[n], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for n in range(3)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: token for token, word in enumerate(words)},
            "unk_token": "<pad>",
        },
    }  # fmt: skip
    file = tmp_path / "tokenizer-midi.json"
    file.write_text(json.dumps(content))
    save_pth(random_checkpoint("4", n_layer=1, n_embd=64, vocab_size=6), tmp_path / "midi.pth")
    model = wkv.load(tmp_path / "midi.pth", tokenizer=file)
    assert model.tokenizer.encode("<start> v:5b:3 t125") == [1, 3, 4]
    assert model.tokenizer.end_of_text == 2
    sampling = wkv.Sampling(seed=3, top_p=1.0)
    done = wkv.generate(model, "<start>", max_tokens=12, sampling=sampling)
    pieces = list(wkv.stream(model, "<start>", max_tokens=12, sampling=sampling))
    written = [words[token] for token in done.token_ids if token != 2]
    assert done.text.split() == "".join(pieces).split() == written
